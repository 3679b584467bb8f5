#include "worker/data/log_proof.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <absl/time/time.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>

#include "common/random.h"

namespace savior {
namespace {

using Json = nlohmann::ordered_json;

static_assert(std::endian::native == std::endian::little, "files are little-endian");

constexpr char kWhat[] = "savior log proof";
constexpr int kVersion = 1;

std::string DateOf(int64_t start) {
  return absl::FormatTime("%Y-%m-%d", absl::FromUnixSeconds(start), absl::UTCTimeZone());
}

void Add(uint64_t value, uint64_t* digest) { *digest = MixTwo(*digest, value); }
void Add(int64_t value, uint64_t* digest) { Add(static_cast<uint64_t>(value), digest); }
void Add(float value, uint64_t* digest) { Add(uint64_t{std::bit_cast<uint32_t>(value)}, digest); }

std::vector<uint64_t> HashesOf(const std::vector<std::string>& texts) {
  std::vector<uint64_t> hashes;
  hashes.reserve(texts.size());
  for (const std::string& text : texts) hashes.push_back(HashName(text));
  return hashes;
}

std::vector<std::pair<std::string, std::string>> Describe(const LogSchema& schema) {
  const auto names = [](const std::vector<CategoricalFeature>& features) {
    return absl::StrJoin(features, ", ", [](std::string* out, const CategoricalFeature& feature) {
      absl::StrAppend(out, feature.name);
    });
  };
  const auto modality = [](std::string* out, const Modality& m) {
    absl::StrAppend(out, m.name, "[", m.dim, "]");
  };
  return {{"categorical features of items", names(schema.item_features)},
          {"numbers of items", absl::StrJoin(schema.item_numerics, ", ")},
          {"categorical features of impressions", names(schema.context_features)},
          {"numbers of impressions", absl::StrJoin(schema.context_numerics, ", ")},
          {"item vectors", absl::StrJoin(schema.modalities, ", ", modality)},
          {"conversions", schema.has_conversion ? "yes" : "no"},
          {"weights", schema.has_weight ? "yes" : "no"}};
}

// Digests the days of a log, one after the other.
class DayProver {
 public:
  explicit DayProver(const TrainingLog* log)
      : log_(*log),
        kinds_(HashesOf(log->schema().behaviour_kinds)),
        histories_(static_cast<size_t>(log->num_users())) {
    for (const CategoricalFeature& feature : log->schema().context_features) {
      context_.push_back(HashesOf(feature.vocabulary));
    }
  }

  static std::vector<std::string> Columns(const LogSchema& schema) {
    std::vector<std::string> columns = {"request_id", "user_id", "timestamp",  "history",
                                        "item_id",    "click",   "prior_count"};
    if (schema.has_conversion) columns.emplace_back("conversion");
    if (schema.has_weight) columns.emplace_back("weight");
    for (const CategoricalFeature& feature : schema.context_features)
      columns.push_back(feature.name);
    columns.insert(columns.end(), schema.context_numerics.begin(), schema.context_numerics.end());
    return columns;
  }

  // In the order of Columns; days ascend from call to call.
  absl::StatusOr<std::vector<uint64_t>> Digests(const DayLog& day) {
    std::vector<uint64_t> digests(4);
    for (size_t r = 0; r < day.users.size(); ++r) {
      const auto user = static_cast<size_t>(day.users[r]);
      Add(day.request_ids[r], &digests[0]);
      Add(log_.user_ids()[user], &digests[1]);
      Add(day.timestamps[r], &digests[2]);
      SAVIOR_ASSIGN_OR_RETURN(const uint64_t history, HistoryUntil(user, day.history_end[r]));
      Add(history, &digests[3]);
      // Which rows are whose.
      Add(day.row_begin[r + 1] - day.row_begin[r], &digests[0]);
    }
    const auto column = [&digests](const auto& values, const auto& value_of) {
      uint64_t digest = 0;
      for (const auto value : values) Add(value_of(value), &digest);
      digests.push_back(digest);
    };
    const auto number = [](auto value) { return static_cast<int64_t>(value); };
    const auto real = [](float value) { return value; };
    column(day.items, [this](int32_t item) { return log_.item_ids()[static_cast<size_t>(item)]; });
    column(day.clicks, number);
    column(day.prior_counts, number);
    if (log_.schema().has_conversion) column(day.conversions, number);
    if (log_.schema().has_weight) column(day.weights, real);
    for (size_t f = 0; f < context_.size(); ++f) {
      column(day.context[f], [&](int32_t code) { return context_[f][static_cast<size_t>(code)]; });
    }
    for (const auto& values : day.numerics) column(values, real);
    return digests;
  }

 private:
  struct History {
    int64_t end = 0;
    uint64_t digest = 0;  // of behaviours [0, end)
  };

  // Requests ascend in time, so what lies before them only grows: every behaviour is read once.
  absl::StatusOr<uint64_t> HistoryUntil(size_t user, int64_t end) {
    History& history = histories_[user];
    const Timeline timeline = log_.timeline(static_cast<int64_t>(user));
    for (; history.end < end; ++history.end) {
      const auto at = static_cast<size_t>(history.end);
      // Timelines are too long to be checked when a log is opened.
      const auto item = static_cast<size_t>(timeline.items[at]);
      const auto kind = static_cast<size_t>(static_cast<uint8_t>(timeline.kinds[at]));
      if (item >= log_.item_ids().size() || kind >= kinds_.size()) {
        return absl::DataLossError(
            absl::StrCat("timeline of user number ", user, ": item or kind is out of range"));
      }
      Add(log_.item_ids()[item], &history.digest);
      Add(timeline.timestamps[at], &history.digest);
      Add(kinds_[kind], &history.digest);
    }
    return history.digest;
  }

  const TrainingLog& log_;
  const std::vector<uint64_t> kinds_;
  std::vector<std::vector<uint64_t>> context_;
  std::vector<History> histories_;  // [users]
};

// The likeliest reason, and nothing else says so.
constexpr const char* kLate =
    " (if they came late: data.train_until was behind the last day that was complete)";

absl::Status Differs(const std::string& what) { return absl::FailedPreconditionError(what); }

absl::Status CheckDays(const LogProof& former, const LogProof& now) {
  auto day = now.days.begin();
  for (const LogProof::Day& was : former.days) {
    if (day != now.days.end() && day->start < was.start) break;
    if (day == now.days.end() || day->start != was.start) {
      return Differs(
          absl::StrFormat("%s: its %d requests are gone", DateOf(was.start), was.requests));
    }
    if (day->requests != was.requests) {
      return Differs(absl::StrFormat("%s: has %d requests now, had %d%s", DateOf(was.start),
                                     day->requests, was.requests, kLate));
    }
    for (size_t c = 0; c < former.columns.size(); ++c) {
      if (day->digests[c] == was.digests[c]) continue;
      return Differs(absl::StrFormat("%s: '%s' has other values than before", DateOf(was.start),
                                     former.columns[c]));
    }
    ++day;
  }
  if (day != now.days.end() && day->start < former.trained.until) {
    return Differs(absl::StrFormat("%s: has %d requests now, had none%s", DateOf(day->start),
                                   day->requests, kLate));
  }
  return absl::OkStatus();
}

// The place of `id` in `proof`; -1: not there.
int64_t PlaceOf(const LogProof& proof, int64_t id) {
  const auto found = std::ranges::lower_bound(proof.items, id);
  return found == proof.items.end() || *found != id ? -1 : found - proof.items.begin();
}

// Of every content, the number of its first item.
std::vector<int32_t> FirstItems(const TrainingLog& log) {
  std::vector<int32_t> first(static_cast<size_t>(log.num_contents()), -1);
  const auto contents = log.item_contents();
  for (size_t i = contents.size(); i-- > 0;) {
    if (contents[i] >= 0) first[static_cast<size_t>(contents[i])] = static_cast<int32_t>(i);
  }
  return first;
}

bool HadContent(const LogProof& former, int64_t id) {
  const int64_t place = PlaceOf(former, id);
  return place >= 0 && former.vectors[static_cast<size_t>(place)] != 0;
}

absl::Status CheckItems(const LogProof& former, const LogProof& now, const TrainingLog& log) {
  const std::vector<int32_t> first = FirstItems(log);
  for (size_t i = 0; i < former.items.size(); ++i) {
    const int64_t id = former.items[i];
    const int64_t place = PlaceOf(now, id);
    if (place < 0) return Differs(absl::StrFormat("item %d is gone", id));
    if (former.vectors[i] == 0) continue;
    const uint64_t vectors = now.vectors[static_cast<size_t>(place)];
    if (vectors == 0) return Differs(absl::StrFormat("item %d has no vector any more", id));
    if (vectors != former.vectors[i]) {
      return Differs(absl::StrFormat("item %d has another vector than before", id));
    }
    const int32_t content = log.item_contents()[static_cast<size_t>(place)];
    const int64_t key = log.item_ids()[static_cast<size_t>(first[static_cast<size_t>(content)])];
    if (!HadContent(former, key)) {
      return Differs(absl::StrFormat(
          "item %d, whose vector is new, has a smaller id than item %d, which has the same vector: "
          "what was learnt about a vector is kept under its smallest id. Give it a larger id",
          key, id));
    }
  }
  return absl::OkStatus();
}

Json HeaderOf(const LogProof& proof) {
  Json days = Json::array();
  for (const LogProof::Day& day : proof.days) {
    days.push_back({day.start, day.requests, day.digests});
  }
  return {{"what", kWhat},
          {"version", kVersion},
          {"from", proof.trained.from},
          {"until", proof.trained.until},
          {"schema", proof.schema},
          {"columns", proof.columns},
          {"days", std::move(days)},
          {"items", proof.items.size()}};
}

// Throws Json::exception.
LogProof FromHeader(const Json& j) {
  LogProof proof;
  proof.trained = {j.at("from").get<int64_t>(), j.at("until").get<int64_t>()};
  proof.schema = j.at("schema").get<std::vector<std::pair<std::string, std::string>>>();
  proof.columns = j.at("columns").get<std::vector<std::string>>();
  for (const Json& day : j.at("days")) {
    proof.days.push_back({day.at(0).get<int64_t>(), day.at(1).get<int64_t>(),
                          day.at(2).get<std::vector<uint64_t>>()});
  }
  return proof;
}

}  // namespace

absl::StatusOr<LogProof> ProveLog(const TrainingLog& log, Period trained) {
  LogProof proof;
  proof.trained = trained;
  proof.schema = Describe(log.schema());
  proof.columns = DayProver::Columns(log.schema());
  DayProver prover(&log);
  for (size_t d = 0; d < log.days().size(); ++d) {
    const DayInfo& info = log.days()[d];
    if (info.start < trained.from || info.start >= trained.until) continue;
    SAVIOR_ASSIGN_OR_RETURN(const DayLog day, log.ReadDay(d));
    SAVIOR_ASSIGN_OR_RETURN(std::vector<uint64_t> digests, prover.Digests(day));
    proof.days.push_back({info.start, info.requests, std::move(digests)});
  }
  proof.items.assign(log.item_ids().begin(), log.item_ids().end());
  const std::vector<uint64_t> contents = ContentDigests(log);
  for (const int32_t content : log.item_contents()) {
    proof.vectors.push_back(content < 0 ? 0 : contents[static_cast<size_t>(content)]);
  }
  return proof;
}

absl::Status CheckGrown(const LogProof& former, const LogProof& now, const TrainingLog& log) {
  for (size_t i = 0; i < former.schema.size(); ++i) {
    const auto& [what, was] = former.schema[i];
    if (now.schema[i].second == was) continue;
    return Differs(
        absl::StrFormat("%s: \"%s\" now, \"%s\" before", what, now.schema[i].second, was));
  }
  SAVIOR_RETURN_IF_ERROR(CheckDays(former, now));
  return CheckItems(former, now, log);
}

std::vector<int32_t> NewContents(const LogProof& former, const TrainingLog& log) {
  const std::vector<int32_t> first = FirstItems(log);
  std::vector<int32_t> contents;
  for (size_t c = 0; c < first.size(); ++c) {
    if (!HadContent(former, log.item_ids()[static_cast<size_t>(first[c])])) {
      contents.push_back(static_cast<int32_t>(c));
    }
  }
  return contents;
}

std::vector<uint64_t> ContentDigests(const TrainingLog& log) {
  std::vector<uint64_t> digests(static_cast<size_t>(log.num_contents()));
  for (size_t m = 0; m < log.schema().modalities.size(); ++m) {
    const auto dim = static_cast<size_t>(log.schema().modalities[m].dim);
    for (size_t c = 0; c < digests.size(); ++c) {
      for (const uint16_t half : log.vectors(m).subspan(c * dim, dim)) {
        Add(uint64_t{half}, &digests[c]);
      }
    }
  }
  for (uint64_t& digest : digests) digest = std::max<uint64_t>(digest, 1);
  return digests;
}

std::string EncodeProof(const LogProof& proof) {
  const std::string header = HeaderOf(proof).dump(-1, ' ', false, Json::error_handler_t::replace);
  const uint64_t length = header.size();
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof(length));
  bytes += header;
  bytes.append(reinterpret_cast<const char*>(proof.items.data()), 8 * proof.items.size());
  bytes.append(reinterpret_cast<const char*>(proof.vectors.data()), 8 * proof.vectors.size());
  return bytes;
}

absl::StatusOr<LogProof> DecodeProof(const std::filesystem::path& path, const std::string& bytes) {
  const auto damaged = [&path](const std::string& what) {
    return absl::DataLossError(absl::StrCat(path.string(), ": ", what));
  };
  uint64_t length = 0;
  if (bytes.size() < sizeof(length)) return damaged("is cut short");
  std::memcpy(&length, bytes.data(), sizeof(length));
  if (length > bytes.size() - sizeof(length)) return damaged("is cut short");
  const std::string_view header(bytes.data() + sizeof(length), length);
  const std::string_view rest = std::string_view(bytes).substr(sizeof(length) + length);
  try {
    const Json j = Json::parse(header);
    if (j.at("what") != kWhat || j.at("version") != kVersion) {
      return damaged("written by another version of savior");
    }
    LogProof proof = FromHeader(j);
    const auto items = j.at("items").get<uint64_t>();
    if (rest.size() % 16 != 0 || rest.size() / 16 != items) return damaged("is cut short");
    proof.items.resize(items);
    proof.vectors.resize(items);
    if (items > 0) {
      std::memcpy(proof.items.data(), rest.data(), 8 * items);
      std::memcpy(proof.vectors.data(), rest.data() + 8 * items, 8 * items);
    }
    if (proof.schema.size() != Describe({}).size()) return damaged("describes another schema");
    for (const LogProof::Day& day : proof.days) {
      if (day.digests.size() != proof.columns.size()) return damaged("has days of other columns");
    }
    return proof;
  } catch (const Json::exception& error) {
    return damaged(absl::StrCat("not a proof: ", error.what()));
  }
}

}  // namespace savior
