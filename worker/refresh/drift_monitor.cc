#include "worker/refresh/drift_monitor.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "common/random.h"
#include "worker/step_inputs.h"
#include "worker/tables.h"

namespace savior {
namespace {

constexpr size_t kContentsPerCall = 4096;

// When each content was first listed.
std::vector<int64_t> FirstListed(const TrainingLog& log) {
  std::vector<int64_t> first(static_cast<size_t>(log.num_contents()),
                             std::numeric_limits<int64_t>::max());
  for (size_t i = 0; i < log.item_contents().size(); ++i) {
    const int32_t content = log.item_contents()[i];
    if (content < 0) continue;
    int64_t& at = first[static_cast<size_t>(content)];
    at = std::min(at, log.listed_at()[i]);
  }
  return first;
}

std::vector<double> PerplexityOf(const std::vector<std::vector<double>>& use) {
  std::vector<double> perplexity;
  for (const std::vector<double>& level : use) {
    const bool any = std::ranges::any_of(level, [](double n) { return n > 0; });
    perplexity.push_back(any ? UseOf(level).perplexity : 0.0);
  }
  return perplexity;
}

}  // namespace

double DriftFigures::perplexity_drop() const {
  double drop = -std::numeric_limits<double>::infinity();
  for (size_t l = 0; l < perplexity.size(); ++l) {
    if (old_perplexity[l] > 0) drop = std::max(drop, 1.0 - perplexity[l] / old_perplexity[l]);
  }
  return perplexity.empty() ? 0.0 : drop;
}

std::string DriftFigures::Beyond(const Config::Refresh& bounds) const {
  if (new_contents < kLeastNew || old_contents == 0) return "";
  if (rq_mse_ratio() > bounds.max_rq_mse_ratio) {
    return absl::StrFormat(
        "quantisation error of new items is %.3f times that of old ones, above "
        "refresh.max_rq_mse_ratio = %g",
        rq_mse_ratio(), bounds.max_rq_mse_ratio);
  }
  if (perplexity_drop() > bounds.max_perplexity_drop) {
    return absl::StrFormat(
        "perplexity of a level has fallen by %.1f%%, above refresh.max_perplexity_drop = %g",
        100 * perplexity_drop(), bounds.max_perplexity_drop);
  }
  if (new_code_share > bounds.max_new_code_share) {
    return absl::StrFormat(
        "%.1f%% of new items have codes that no older one has, above refresh.max_new_code_share = "
        "%g",
        100 * new_code_share, bounds.max_new_code_share);
  }
  return "";
}

DriftMonitor::DriftMonitor(const TrainingLog* log, const Config& config, const Codebook& codebook,
                           uint32_t version, int64_t built_until)
    : keys_(ContentKeys(*log)),
      dim_(static_cast<size_t>(config.encoder.dim)),
      levels_(static_cast<size_t>(config.codebook.levels)),
      z_(ContentLayout::Of(config).z(version)),
      offset_(ContentLayout::Of(config).codes(version)),
      timeout_(Milliseconds(config.ps.timeout_s)),
      codebook_(
          codebook.WithEmbeddings({codebook.embeddings().begin(), codebook.embeddings().end()})),
      old_use_(levels_, std::vector<double>(static_cast<size_t>(codebook.codes()))),
      use_(old_use_) {
  const std::vector<int64_t> first = FirstListed(*log);
  for (size_t c = 0; c < first.size(); ++c) {
    listed_.push_back({first[c], static_cast<int32_t>(c)});
  }
  std::ranges::sort(listed_, {}, [](const Listed& l) { return std::tie(l.at, l.content); });
  old_ = static_cast<size_t>(std::ranges::lower_bound(listed_, built_until, {}, &Listed::at) -
                             listed_.begin());
  seen_ = old_;
}

absl::Status DriftMonitor::Advance(int64_t now, EmbeddingStore& store) {
  if (!looked_at_old_) {
    std::vector<Listed> old;
    const size_t every = (old_ + kMostOld - 1) / kMostOld;
    for (size_t i = 0; i < old_; i += every) old.push_back(listed_[i]);
    SAVIOR_RETURN_IF_ERROR(Look(old, store, /*old=*/true));
    looked_at_old_ = true;
  }
  const auto until = static_cast<size_t>(std::ranges::lower_bound(listed_, now, {}, &Listed::at) -
                                         listed_.begin());
  if (until <= seen_) return absl::OkStatus();
  SAVIOR_RETURN_IF_ERROR(
      Look(std::span(listed_).subspan(seen_, until - seen_), store, /*old=*/false));
  seen_ = until;
  return absl::OkStatus();
}

absl::Status DriftMonitor::Look(std::span<const Listed> contents, EmbeddingStore& store, bool old) {
  const size_t width = store.tables()[kContentTable].dim;
  std::vector<float> rows;
  std::vector<uint64_t> keys;
  std::vector<int32_t> codes(levels_);
  for (size_t begin = 0; begin < contents.size(); begin += kContentsPerCall) {
    keys.clear();
    for (const Listed& l :
         contents.subspan(begin, std::min(kContentsPerCall, contents.size() - begin))) {
      keys.push_back(keys_[static_cast<size_t>(l.content)]);
    }
    rows.resize(keys.size() * width);
    const TablePull pull = {kContentTable, keys, rows};
    SAVIOR_RETURN_IF_ERROR(store.Pull({&pull, 1}, SteadyClock::now() + timeout_));
    for (size_t i = 0; i < keys.size(); ++i) {
      const float* const row = rows.data() + i * width;
      uint64_t combination = 0;
      for (size_t l = 0; l < levels_; ++l) {
        codes[l] = static_cast<int32_t>(row[offset_ + l]);
        if (codes[l] < 0 || codes[l] >= codebook_->codes()) {
          return absl::DataLossError(
              absl::StrCat("content ", keys[i], ": code ", codes[l], " is not of this codebook"));
        }
        combination = MixTwo(combination, static_cast<uint64_t>(codes[l]));
        ++use_[l][static_cast<size_t>(codes[l])];
        if (old) ++old_use_[l][static_cast<size_t>(codes[l])];
      }
      const std::vector<float> decoded = codebook_->Decode(codes);
      double error = 0.0;
      for (size_t d = 0; d < dim_; ++d) {
        const double difference = static_cast<double>(row[z_ + d]) - decoded[d];
        error += difference * difference;
      }
      const bool combination_is_new = combinations_.insert(combination).second;
      (old ? old_error_ : new_error_) += error;
      ++(old ? old_count_ : new_count_);
      if (!old) new_combinations_ += combination_is_new;
    }
  }
  return absl::OkStatus();
}

DriftFigures DriftMonitor::Figures() const {
  DriftFigures figures;
  const auto mean = [](double sum, int64_t n) {
    return n > 0 ? sum / static_cast<double>(n) : 0.0;
  };
  figures.old_contents = old_count_;
  figures.new_contents = new_count_;
  figures.old_rq_mse = mean(old_error_, old_count_);
  figures.new_rq_mse = mean(new_error_, new_count_);
  figures.new_code_share = mean(static_cast<double>(new_combinations_), new_count_);
  figures.old_perplexity = PerplexityOf(old_use_);
  figures.perplexity = PerplexityOf(use_);
  return figures;
}

}  // namespace savior
