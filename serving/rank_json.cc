#include "serving/rank_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <utility>

#include "common/config.h"
#include "serving/json_cursor.h"
#include "serving/json_text.h"

namespace savior {
namespace {

using Kind = JsonCursor::Kind;

constexpr std::string_view kId = "an integer >= 0 (an id)";
constexpr std::string_view kTime = "an integer (unix seconds)";
constexpr std::string_view kCount = "an integer >= 0";

// The reading came to its end before the body did: ParseRankRequest finds out why.
absl::Status Unread() { return absl::InternalError("a body that is JSON was not read to its end"); }

// Where a value lies. Written out for an error only.
struct Path {
  const Path* parent = nullptr;
  std::string_view key = {};
  std::optional<size_t> index = std::nullopt;

  std::string Text() const {
    const std::string before = parent == nullptr ? "" : parent->Text();
    return index.has_value() ? JsonPath(before, *index) : JsonPath(before, key);
  }
};

// Reads one request in the order in which it is written, up to the first thing that is wrong.
class RankReader {
 public:
  RankReader(std::string_view body, const RankLimits& limits, RankRequest* request)
      : at_(body), limits_(limits), request_(*request) {}

  absl::Status Read() {
    SAVIOR_RETURN_IF_ERROR(ReadObject<6>(nullptr, kKeys, [this](size_t key, const Path& path) {
      switch (key) {
        case 0:
          return ReadUnsigned(path, kId, &request_.user.emplace());
        case 1:
          return ReadCount(path, kTime, &request_.timestamp);
        case 2:
          return ReadHistory(path);
        case 3:
          return ReadFeatures(path, &request_.features);
        case 4:
          return ReadNumerics(path, &request_.numerics);
        default:
          return ReadCandidates(path);
      }
    }));
    if (!at_.AtEnd()) return Unread();
    if (!candidates_) {
      return absl::InvalidArgumentError("candidates: missing, must be a list of ids or objects");
    }
    return CheckSizes(request_.candidates.size(), request_.history.size(), limits_);
  }

 private:
  template <size_t n>
  using Keys = std::array<std::string_view, n>;
  static constexpr Keys<6> kKeys = {"user",     "timestamp", "history",
                                    "features", "numerics",  "candidates"};
  static constexpr Keys<6> kCandidateKeys = {"item",        "vectors",  "listed_at",
                                             "prior_count", "features", "numerics"};
  static constexpr Keys<2> kBehaviourKeys = {"item", "timestamp"};

  // "the value at `path` must be `wanted`".
  absl::Status Refuse(const Path& path, std::string_view wanted) {
    return JsonError(path.Text(), at_.Describe(), wanted);
  }

  // `read`(number of the key, its path) for every member; `seen`: bits of the keys that are there.
  template <size_t n, typename Read>
  absl::Status ReadObject(const Path* path, const Keys<n>& keys, Read read,
                          uint32_t* seen = nullptr) {
    if (!at_.EnterObject()) return path == nullptr ? Unread() : Refuse(*path, "an object");
    uint32_t bits = 0;
    for (std::string_view name; at_.NextKey(&name);) {
      const auto known = std::ranges::find(keys, name);
      if (known == keys.end()) return UnknownKey(Path{path, name}, keys);
      const auto key = static_cast<size_t>(known - keys.begin());
      if ((bits >> key & 1) != 0) return Unread();  // twice
      bits |= 1u << key;
      SAVIOR_RETURN_IF_ERROR(read(key, Path{path, *known}));
    }
    if (seen != nullptr) *seen = bits;
    return at_.bad() ? Unread() : absl::OkStatus();
  }

  static absl::Status UnknownKey(const Path& path, std::span<const std::string_view> known) {
    const std::string word(path.key.substr(0, 60));  // an edit distance costs its length
    return absl::InvalidArgumentError(
        fmt::format("{}: no such key; nearest is {}", path.Text(),
                    Nearest(word, std::vector<std::string>(known.begin(), known.end()))));
  }

  absl::Status ReadUnsigned(const Path& path, std::string_view wanted, uint64_t* value) {
    JsonNumber number;
    if (!at_.Number(&number)) return Refuse(path, wanted);
    if (!number.is_unsigned) {
      return JsonError(path.Text(), JsonCursor::Describe(number), wanted);
    }
    *value = number.whole;
    return absl::OkStatus();
  }

  absl::Status ReadCount(const Path& path, std::string_view wanted, int64_t* value) {
    uint64_t whole = 0;
    SAVIOR_RETURN_IF_ERROR(ReadUnsigned(path, wanted, &whole));
    if (whole > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return JsonError(path.Text(), std::to_string(whole), fmt::format("{} below 2^63", wanted));
    }
    *value = static_cast<int64_t>(whole);
    return absl::OkStatus();
  }

  // `read`(path, value) for every member of an object whose names are the scorer's to check.
  template <typename T, typename Read>
  absl::Status ReadNamed(const Path& path, Named<T>* values, Read read) {
    if (!at_.EnterObject()) return Refuse(path, "an object");
    for (std::string_view name; at_.NextKey(&name);) {
      T& value = values->Append(name);
      const std::string& kept = (values->end() - 1)->first;  // `name` ends with the next string
      SAVIOR_RETURN_IF_ERROR(read(Path{&path, kept}, &value));
    }
    return at_.bad() || values->HasTwice() ? Unread() : absl::OkStatus();
  }

  absl::Status ReadFeatures(const Path& path, Named<std::string>* features) {
    return ReadNamed(path, features, [this](const Path& at, std::string* value) {
      std::string_view text;
      if (!at_.String(&text)) return Refuse(at, "a string");
      *value = text;
      return absl::OkStatus();
    });
  }

  absl::Status ReadNumerics(const Path& path, Named<double>* numerics) {
    return ReadNamed(path, numerics, [this](const Path& at, double* value) {
      JsonNumber number;
      if (!at_.Number(&number)) return Refuse(at, "a number");
      *value = number.value;
      return absl::OkStatus();
    });
  }

  absl::Status ReadVectors(const Path& path, Named<std::vector<float>>* vectors) {
    return ReadNamed(path, vectors, [this](const Path& at, std::vector<float>* value) {
      if (!at_.EnterList()) return Refuse(at, "a list of numbers");
      while (at_.NextElement()) {
        constexpr std::string_view kWanted = "a number that float32 can hold";
        const Path element{&at, {}, value->size()};
        JsonNumber number;
        if (!at_.Number(&number)) return Refuse(element, kWanted);
        if (std::abs(number.value) > std::numeric_limits<float>::max()) {
          return JsonError(element.Text(), JsonCursor::Describe(number), kWanted);
        }
        value->push_back(static_cast<float>(number.value));
      }
      return absl::OkStatus();
    });
  }

  // `read`(path of the element) for every element.
  template <typename Read>
  absl::Status ReadList(const Path& path, std::string_view of, int64_t most, Read read) {
    if (!at_.EnterList()) return Refuse(path, fmt::format("a list of {}", of));
    for (int64_t i = 0; at_.NextElement(); ++i) {
      if (i == most) return Unread();  // how many there are is not known yet
      SAVIOR_RETURN_IF_ERROR(read(Path{&path, {}, static_cast<size_t>(i)}));
    }
    return at_.bad() ? Unread() : absl::OkStatus();
  }

  absl::Status ReadHistory(const Path& path) {
    return ReadList(path, "objects {\"item\", \"timestamp\"}", limits_.history,
                    [this](const Path& at) { return ReadBehaviour(at); });
  }

  absl::Status ReadBehaviour(const Path& path) {
    PastBehaviour& past = request_.history.emplace_back();
    uint32_t seen = 0;
    SAVIOR_RETURN_IF_ERROR(ReadObject<2>(
        &path, kBehaviourKeys,
        [&](size_t key, const Path& at) {
          return key == 0 ? ReadUnsigned(at, kId, &past.item)
                          : ReadCount(at, kTime, &past.timestamp);
        },
        &seen));
    for (size_t key = 0; key < kBehaviourKeys.size(); ++key) {
      if ((seen >> key & 1) != 0) continue;
      return absl::InvalidArgumentError(
          fmt::format("{}: missing", Path{&path, kBehaviourKeys[key]}.Text()));
    }
    return absl::OkStatus();
  }

  absl::Status ReadCandidates(const Path& path) {
    candidates_ = true;
    return ReadList(path, "ids or objects", limits_.candidates, [this](const Path& at) {
      return ReadCandidate(at, &request_.candidates.emplace_back());
    });
  }

  absl::Status ReadCandidate(const Path& path, Candidate* candidate) {
    if (at_.kind() != Kind::kObject) {
      return ReadUnsigned(path, "an integer >= 0 (an id) or an object", &candidate->item.emplace());
    }
    return ReadObject<6>(&path, kCandidateKeys, [&](size_t key, const Path& at) {
      switch (key) {
        case 0:
          return ReadUnsigned(at, kId, &candidate->item.emplace());
        case 1:
          return ReadVectors(at, &candidate->vectors);
        case 2:
          return ReadCount(at, kTime, &candidate->listed_at.emplace());
        case 3:
          return ReadCount(at, kCount, &candidate->prior_count.emplace());
        case 4:
          return ReadFeatures(at, &candidate->features);
        default:
          return ReadNumerics(at, &candidate->numerics);
      }
    });
  }

  JsonCursor at_;
  const RankLimits& limits_;
  RankRequest& request_;
  bool candidates_ = false;  // there was such a key
};

// Elements of list `key`, if it is one.
size_t LengthOf(const nlohmann::json& document, const char* key) {
  const auto found = document.find(key);
  return found != document.end() && found->is_array() ? found->size() : 0;
}

void AppendFloats(std::string_view name, std::span<const float> values, std::string* to) {
  to->append(",\"").append(name).append("\":[");
  for (size_t i = 0; i < values.size(); ++i) {
    std::array<char, 32> text;
    const auto end = std::to_chars(text.data(), text.data() + text.size(), values[i]).ptr;
    if (i > 0) to->push_back(',');
    to->append(text.data(), end);
  }
  to->push_back(']');
}

}  // namespace

absl::Status CheckSizes(size_t candidates, size_t behaviours, const RankLimits& limits) {
  if (candidates == 0) {
    return absl::InvalidArgumentError("candidates: none, must be at least one");
  }
  if (candidates > static_cast<size_t>(limits.candidates)) {
    return absl::InvalidArgumentError(
        fmt::format("candidates: {} of them, this server takes {}; send several requests",
                    candidates, limits.candidates));
  }
  if (behaviours > static_cast<size_t>(limits.history)) {
    return absl::InvalidArgumentError(
        fmt::format("history: {} behaviours, this server takes {}; send the newest", behaviours,
                    limits.history));
  }
  return absl::OkStatus();
}

absl::StatusOr<RankRequest> ParseRankRequest(std::string_view body, const RankLimits& limits,
                                             int64_t now) {
  RankRequest request;
  request.timestamp = now;
  const absl::Status read = RankReader(body, limits, &request).Read();
  if (read.ok()) return request;
  // What the body is as a whole comes first: whether it is JSON, and how long its lists are.
  SAVIOR_ASSIGN_OR_RETURN(const nlohmann::json document, ParseJsonObject(body));
  if (const size_t candidates = LengthOf(document, "candidates"); candidates > 0) {
    SAVIOR_RETURN_IF_ERROR(CheckSizes(candidates, LengthOf(document, "history"), limits));
  }
  return read;
}

std::string RankScoresJson(const RankScores& scores, std::string_view version) {
  constexpr size_t kMost = 3 * 16;  // bytes of a candidate's scores, hardly ever more
  std::string text = R"({"model":"savior","version":)" + JsonString(version);
  text.reserve(text.size() + 64 + kMost * scores.p_ctr.size());
  AppendFloats("p_ctr", scores.p_ctr, &text);
  AppendFloats("p_cvr", scores.p_cvr, &text);
  AppendFloats("p_ctcvr", scores.p_ctcvr, &text);
  text.push_back('}');
  return text;
}

}  // namespace savior
