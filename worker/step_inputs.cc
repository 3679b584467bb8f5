#include "worker/step_inputs.h"

#include <absl/strings/str_cat.h>

#include <span>
#include <utility>

#include "worker/numerics.h"
#include "worker/unique_keys.h"

namespace savior {
namespace {

// Content rows that a worker keeps; beyond this it starts afresh.
constexpr size_t kCachedContents = size_t{1} << 22;

std::vector<std::vector<uint64_t>> KeysOf(const std::vector<CategoricalFeature>& features) {
  std::vector<std::vector<uint64_t>> keys;
  for (const CategoricalFeature& feature : features) {
    std::vector<uint64_t>& of = keys.emplace_back();
    for (const std::string& value : feature.vocabulary)
      of.push_back(FeatureKey(feature.name, value));
  }
  return keys;
}

}  // namespace

std::vector<uint64_t> ContentKeys(const TrainingLog& log) {
  std::vector<uint64_t> keys(static_cast<size_t>(log.num_contents()));
  const auto contents = log.item_contents();
  const auto ids = log.item_ids();
  for (size_t i = contents.size(); i-- > 0;) {
    if (contents[i] >= 0) keys[static_cast<size_t>(contents[i])] = static_cast<uint64_t>(ids[i]);
  }
  return keys;
}

StepAssembler::StepAssembler(const TrainingLog* log, const Config& config)
    : log_(log),
      arm_(ArmOf(config.model.arm)),
      content_(ContentLayout::Of(config)),
      num_codes_(static_cast<uint64_t>(config.codebook.codes)),
      prefixes_(arm_.uses_codes() ? PrefixesOf(config) : 0),
      features_of_history_(config.model.behaviour_features),
      content_vectors_(arm_.free_content || (arm_.alignment && config.model.alignment == "hybrid")),
      item_feature_keys_(KeysOf(log->schema().item_features)),
      context_keys_(KeysOf(log->schema().context_features)),
      content_key_(ContentKeys(*log)) {
  num_numerics_ = kOwnNumerics + static_cast<int64_t>(log->schema().item_numerics.size() +
                                                      log->schema().context_numerics.size());
}

void StepAssembler::UseCodebook(uint32_t version, uint32_t build) {
  codebook_version_ = version;
  build_ = build;
  ForgetContents();
}

void StepAssembler::ForgetContents() {
  cached_.clear();
  cache_rows_.clear();
}

absl::StatusOr<StepInputs> StepAssembler::Assemble(Batch batch, EmbeddingStore& store,
                                                   Deadline deadline) {
  StepInputs in;
  in.batch = std::move(batch);
  AssembleItems(in);
  AssembleFeatures(in);
  AssembleNumerics(in);
  if (arm_.uses_contents()) SAVIOR_RETURN_IF_ERROR(AssembleContents(in, store, deadline));
  return in;
}

void StepAssembler::AssembleItems(StepInputs& in) {
  const Batch& b = in.batch;
  UniqueKeys user(&in.user.keys), item(&in.item.keys);
  const auto ids = log_->item_ids();
  in.user_of_row.reserve(b.items.size());
  for (size_t r = 0; r < b.users.size(); ++r) {
    const int64_t number =
        user.Number(static_cast<uint64_t>(log_->user_ids()[static_cast<size_t>(b.users[r])]));
    in.user_of_row.insert(in.user_of_row.end(),
                          static_cast<size_t>(b.row_offsets[r + 1] - b.row_offsets[r]), number);
  }
  const auto number_all = [&](const std::vector<int32_t>& items, std::vector<int64_t>* numbers) {
    numbers->reserve(items.size());
    for (const int32_t i : items) {
      numbers->push_back(item.Number(static_cast<uint64_t>(ids[static_cast<size_t>(i)])));
      // A new key: remember its item number's content at the same place.
      if (in.content_of_item.size() < in.item.keys.size()) in.content_of_item.push_back(i);
    }
  };
  number_all(b.items, &in.item_of_row);
  in.candidates = static_cast<int64_t>(in.item.keys.size());
  number_all(b.history_items, &in.item_of_position);
}

// Needs content_of_item to hold item numbers still.
void StepAssembler::AssembleFeatures(StepInputs& in) {
  UniqueKeys feature(&in.feature.keys);
  const size_t items =
      features_of_history_ ? in.item.keys.size() : static_cast<size_t>(in.candidates);
  in.features_of_item.reserve(item_feature_keys_.size() * items);
  for (size_t f = 0; f < item_feature_keys_.size(); ++f) {
    const auto codes = log_->item_feature(f);
    for (size_t u = 0; u < items; ++u) {
      const auto code = static_cast<size_t>(codes[static_cast<size_t>(in.content_of_item[u])]);
      in.features_of_item.push_back(feature.Number(item_feature_keys_[f][code]));
    }
  }
  for (size_t f = 0; f < context_keys_.size(); ++f) {
    for (const int32_t code : in.batch.context[f]) {
      in.context_of_row.push_back(feature.Number(context_keys_[f][static_cast<size_t>(code)]));
    }
  }
}

void StepAssembler::AssembleNumerics(StepInputs& in) const {
  const Batch& b = in.batch;
  in.numerics.reserve(b.items.size() * static_cast<size_t>(num_numerics_));
  for (size_t r = 0; r < b.users.size(); ++r) {
    const int32_t begin = b.history_offsets[r], end = b.history_offsets[r + 1];
    CandidateFacts facts{.now = b.timestamps[r], .history = end - begin};
    if (end > begin) facts.last_history = b.history_times[static_cast<size_t>(end) - 1];
    for (auto n = static_cast<size_t>(b.row_offsets[r]);
         n < static_cast<size_t>(b.row_offsets[r + 1]); ++n) {
      const auto item = static_cast<size_t>(b.items[n]);
      facts.listed_at = log_->listed_at()[item];
      facts.prior_count = b.prior_counts[n];
      in.numerics.resize(in.numerics.size() + kOwnNumerics);
      WriteOwnNumerics(facts, in.numerics.data() + in.numerics.size() - kOwnNumerics);
      for (size_t f = 0; f < log_->schema().item_numerics.size(); ++f) {
        in.numerics.push_back(Squash(log_->item_numeric(f)[item]));
      }
      for (const auto& column : b.numerics) in.numerics.push_back(Squash(column[n]));
    }
  }
}

absl::Status StepAssembler::AssembleContents(StepInputs& in, EmbeddingStore& store,
                                             Deadline deadline) {
  UniqueKeys content(&in.content_keys);
  const auto contents = log_->item_contents();
  for (int64_t& of : in.content_of_item) {
    const int32_t number = contents[static_cast<size_t>(of)];
    of = number < 0 ? -1 : content.Number(content_key_[static_cast<size_t>(number)]);
  }
  const size_t n = in.content_keys.size();
  for (int64_t& of : in.content_of_item) {
    if (of < 0) of = static_cast<int64_t>(n);
  }
  SAVIOR_RETURN_IF_ERROR(FetchContents(in.content_keys, store, deadline));

  const bool codes = arm_.uses_codes();
  const size_t dim = content_.dim, levels = content_.levels;
  const size_t z_from = content_.z(codebook_version_), from = content_.codes(codebook_version_);
  UniqueKeys align(&in.align.keys), prefix(&in.prefix.keys);
  in.z.resize(n * dim);
  if (codes) in.codes_of_content.resize(n * levels);
  in.prefixes_of_content.resize(n * prefixes_);
  for (size_t c = 0; c < n; ++c) {
    const float* row = cache_rows_.data() + cached_.at(in.content_keys[c]);
    std::copy_n(row + z_from, dim, in.z.data() + c * dim);
    for (size_t l = 0; codes && l < levels; ++l) {
      in.codes_of_content[l * n + c] = align.Number(AlignKey(
          codebook_version_, static_cast<uint32_t>(l), static_cast<uint32_t>(row[from + l])));
    }
    if (prefixes_ == 0) continue;
    size_t place = c;
    ForEachPrefix(build_, std::span(row + from, levels), num_codes_, [&](uint64_t key) {
      in.prefixes_of_content[place] = prefix.Number(key);
      place += n;
    });
  }
  if (content_vectors_) in.content_vector.keys = in.content_keys;
  return absl::OkStatus();
}

absl::Status StepAssembler::FetchContents(const std::vector<uint64_t>& keys, EmbeddingStore& store,
                                          Deadline deadline) {
  if (cached_.size() + keys.size() > kCachedContents) ForgetContents();
  std::vector<uint64_t> missing;
  for (const uint64_t key : keys) {
    if (!cached_.contains(key)) missing.push_back(key);
  }
  if (missing.empty()) return absl::OkStatus();
  const size_t offset = cache_rows_.size();
  // Those of a commit from before there were slots are shorter.
  const size_t row = store.tables()[kContentTable].dim;
  if (row < content_.row() && codebook_version_ > 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("table content: rows of ", row,
                     " floats have the codes of version 0 only, not of ", codebook_version_));
  }
  cache_rows_.resize(offset + missing.size() * row);
  const TablePull pull = {kContentTable, missing, std::span(cache_rows_).subspan(offset)};
  if (absl::Status status = store.Pull({&pull, 1}, deadline); !status.ok()) {
    cache_rows_.resize(offset);
    return status;
  }
  for (size_t i = 0; i < missing.size(); ++i)
    cached_[missing[i]] = static_cast<int64_t>(offset + i * row);
  return absl::OkStatus();
}

std::vector<TableKeys> LearnedKeys(const StepInputs& in) {
  std::vector<TableKeys> keys = {{kUserTable, in.user.keys},
                                 {kItemTable, in.item.keys},
                                 {kFeatureTable, in.feature.keys},
                                 {kAlignTable, in.align.keys},
                                 {kContentVectorTable, in.content_vector.keys}};
  if (!in.prefix.keys.empty()) keys.push_back({kPrefixTable, in.prefix.keys});
  return keys;
}

std::vector<TablePull> PullsOf(StepInputs& in, const std::vector<TableSpec>& tables) {
  std::vector<TablePull> pulls;
  const auto add = [&](uint32_t table, Lookup& lookup) {
    if (lookup.keys.empty()) return;
    lookup.rows.resize(lookup.keys.size() * tables[table].dim);
    pulls.push_back({table, lookup.keys, lookup.rows, lookup.updates});
  };
  in.content_vector.updates.resize(in.content_vector.keys.size());
  add(kUserTable, in.user);
  add(kItemTable, in.item);
  add(kFeatureTable, in.feature);
  add(kAlignTable, in.align);
  add(kContentVectorTable, in.content_vector);
  add(kPrefixTable, in.prefix);
  return pulls;
}

absl::Status FetchRows(StepInputs& in, EmbeddingStore& store, Deadline deadline) {
  return store.Pull(PullsOf(in, store.tables()), deadline);
}

}  // namespace savior
