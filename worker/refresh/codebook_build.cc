#include "worker/refresh/codebook_build.h"

#include <absl/strings/str_cat.h>
#include <glog/logging.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <utility>

#include "common/random.h"
#include "common/tensor_file.h"
#include "worker/model/kmeans.h"
#include "worker/refresh/group_sums.h"

namespace savior {
namespace {

// Contents between two looks at the budget: about a millisecond.
constexpr size_t kContentsPerSpend = 256;
// A worker that is slow is waited for; one that is gone ends the run (launcher/control.h).
constexpr std::chrono::hours kPatience{24};

Deadline InPatience() { return DeadlineIn(kPatience); }

class Builder {
 public:
  Builder(const Codebook& current, const ContentShard& shard, const BuildOptions& options,
          Group* group, WorkBudget* budget)
      : current_(current),
        shard_(shard),
        options_(options),
        group_(*group),
        budget_(*budget),
        n_(shard.weights.size()),
        levels_(static_cast<size_t>(current.levels())),
        k_(static_cast<size_t>(current.codes())),
        width_(static_cast<size_t>(current.latent())) {
    CHECK_EQ(shard.z.size(), n_ * static_cast<size_t>(current.dim()));
    CHECK_EQ(shard.codes.size(), n_ * levels_);
  }

  absl::StatusOr<CodebookBuild> Build() {
    for (const int32_t code : shard_.codes) {
      if (code < 0 || static_cast<size_t>(code) >= k_) {
        return absl::DataLossError(
            absl::StrCat("a content has code ", code, " of ", k_, " in the codebook in use"));
      }
    }
    auto contents = static_cast<double>(
        std::ranges::count_if(shard_.weights, [](double weight) { return weight > 0.0; }));
    SAVIOR_RETURN_IF_ERROR(SumOverGroup(&group_, {&contents, 1}, InPatience()));
    if (contents == 0.0) {
      return absl::InvalidArgumentError("no content to learn a codebook from");
    }
    all_contents_ = contents;
    build_.codes.resize(n_ * levels_);
    build_.figures.iterations.resize(levels_);
    std::vector<float> embeddings(current_.embeddings().begin(), current_.embeddings().end());
    const auto codes_of = [&](size_t level) {
      return std::span(embeddings).subspan(level * k_ * width_, k_ * width_);
    };
    SAVIOR_RETURN_IF_ERROR(FindLatents(current_));
    for (size_t level = 0; level < levels_; ++level) {
      SAVIOR_RETURN_IF_ERROR(TrainLevel(level, codes_of(level)));
      SAVIOR_RETURN_IF_ERROR(EncodeLevel(level, codes_of(level)));
    }
    build_.codebook = current_.WithEmbeddings(embeddings);
    if (options_.finetune.finetune_steps > 0) {
      SAVIOR_RETURN_IF_ERROR(Finetune());
      // Everything from the start, with the new latents and codes.
      embeddings.assign(build_.codebook->embeddings().begin(), build_.codebook->embeddings().end());
      SAVIOR_RETURN_IF_ERROR(FindLatents(*build_.codebook));
      for (size_t level = 0; level < levels_; ++level) {
        SAVIOR_RETURN_IF_ERROR(EncodeLevel(level, codes_of(level)));
      }
    }
    SAVIOR_ASSIGN_OR_RETURN(const std::string file, EncodeTensors(build_.codebook->Save()));
    SAVIOR_ASSIGN_OR_RETURN(build_.figures.sha256,
                            AgreeOn(&group_, "codebook", file, InPatience()));
    SAVIOR_RETURN_IF_ERROR(Measure());
    return std::move(build_);
  }

 private:
  std::span<float> rest(size_t i) { return std::span(rest_).subspan(i * width_, width_); }

  // Calls work(i) for this worker's contents, and spends the budget.
  template <typename Work>
  absl::Status ForEach(const Work& work) {
    for (size_t i = 0; i < n_; ++i) {
      work(i);
      if ((i + 1) % kContentsPerSpend == 0) SAVIOR_RETURN_IF_ERROR(budget_.Spend());
    }
    return budget_.Spend();
  }

  absl::Status FindLatents(const Codebook& codebook) {
    const auto dim = static_cast<size_t>(codebook.dim());
    rest_.clear();
    rest_.reserve(n_ * width_);
    for (size_t begin = 0; begin < n_; begin += kContentsPerSpend) {
      const size_t count = std::min(kContentsPerSpend, n_ - begin);
      const std::vector<float> latents =
          codebook.Latents(shard_.z.subspan(begin * dim, count * dim));
      rest_.insert(rest_.end(), latents.begin(), latents.end());
      SAVIOR_RETURN_IF_ERROR(budget_.Spend());
    }
    return absl::OkStatus();
  }

  // The sums of an iteration: [K, width + 2], then how many contents changed their code.
  struct Sums {
    Sums(size_t k, size_t floats) : width(floats), values(k * (floats + 2) + 1) {}
    double* of(size_t code) { return &values[code * (width + 2)]; }
    double& mass(size_t code) { return of(code)[width]; }
    double& error(size_t code) { return of(code)[width + 1]; }
    double& changed() { return values.back(); }
    size_t width;
    std::vector<double> values;
  };

  absl::Status TrainLevel(size_t level, std::span<float> codes) {
    std::vector<int32_t> assignment(n_, -1);
    for (int i = 0; i < options_.iterations; ++i) {
      const CodeSearch search(codes, static_cast<int>(width_));
      Sums sums(k_, width_);
      SAVIOR_RETURN_IF_ERROR(ForEach([&](size_t n) {
        if (shard_.weights[n] <= 0.0) return;
        const std::span<const float> x = rest(n);
        const CodeSearch::Hit hit = search.Nearest(x);
        const auto code = static_cast<size_t>(hit.code);
        double* const sum = sums.of(code);
        for (size_t d = 0; d < width_; ++d) sum[d] += x[d];
        sums.mass(code) += 1.0;
        sums.error(code) += hit.distance;
        if (hit.code != std::exchange(assignment[n], hit.code)) sums.changed() += 1.0;
      }));
      SAVIOR_RETURN_IF_ERROR(SumOverGroup(&group_, sums.values, InPatience()));
      SAVIOR_ASSIGN_OR_RETURN(const int reseeded, Update(&sums, assignment, codes));
      build_.figures.iterations[level] = i + 1;
      build_.figures.reseeded += reseeded;
      if (reseeded == 0 && sums.changed() < options_.settled * all_contents_) break;
    }
    return absl::OkStatus();
  }

  // Moves every code to the mean of its contents, and those without any to where the error is.
  absl::StatusOr<int> Update(Sums* sums, std::span<const int32_t> assignment,
                             std::span<float> codes) {
    std::vector<size_t> dead;
    for (size_t k = 0; k < k_; ++k) {
      if (sums->mass(k) <= 0.0) {
        dead.push_back(k);
        continue;
      }
      for (size_t d = 0; d < width_; ++d) {
        codes[k * width_ + d] = static_cast<float>(sums->of(k)[d] / sums->mass(k));
      }
    }
    if (dead.empty()) return 0;
    return Reseed(sums, dead, assignment, codes);
  }

  // The content of each worker that is farthest from its code, for every code: [K, width + 1],
  // d^2 first; -1: it has none.
  absl::StatusOr<std::vector<std::string>> Farthest(std::span<const int32_t> assignment,
                                                    std::span<const float> codes) {
    const size_t row = width_ + 1;
    std::vector<float> mine(k_ * row);
    for (size_t k = 0; k < k_; ++k) mine[k * row] = -1.0f;
    SAVIOR_RETURN_IF_ERROR(ForEach([&](size_t n) {
      if (assignment[n] < 0) return;
      const auto k = static_cast<size_t>(assignment[n]);
      double distance = 0.0;
      for (size_t d = 0; d < width_; ++d) {
        const double difference = static_cast<double>(rest(n)[d]) - codes[k * width_ + d];
        distance += difference * difference;
      }
      if (static_cast<float>(distance) <= mine[k * row]) return;
      mine[k * row] = static_cast<float>(distance);
      std::ranges::copy(rest(n), mine.begin() + static_cast<std::ptrdiff_t>(k * row + 1));
    }));
    return group_.Allgather(
        {reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(float)}, InPatience());
  }

  // Each dead code gets the farthest content of the code with the largest error. Fewer distinct
  // contents than codes: the others repeat code 0, which wins every tie.
  absl::StatusOr<int> Reseed(Sums* sums, const std::vector<size_t>& dead,
                             std::span<const int32_t> assignment, std::span<float> codes) {
    SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> all, Farthest(assignment, codes));
    const size_t row = width_ + 1;
    std::vector<std::vector<float>> offers;
    for (const std::string& bytes : all) {
      if (bytes.size() != k_ * row * sizeof(float)) {
        return absl::FailedPreconditionError("workers differ in the size of the codebook");
      }
      offers.emplace_back(k_ * row);
      std::memcpy(offers.back().data(), bytes.data(), bytes.size());
    }
    std::vector<double> errors(k_);
    for (size_t k = 0; k < k_; ++k) errors[k] = sums->error(k);
    int reseeded = 0;
    for (const size_t code : dead) {
      const std::span<float> to = codes.subspan(code * width_, width_);
      float* best = nullptr;
      size_t worst = 0;
      while (best == nullptr) {
        worst = static_cast<size_t>(std::ranges::max_element(errors) - errors.begin());
        if (errors[worst] <= 0.0) break;
        for (std::vector<float>& offer : offers) {
          float* const candidate = &offer[worst * row];
          if (*candidate > 0.0f && (best == nullptr || *candidate > *best)) best = candidate;
        }
        if (best == nullptr) errors[worst] = 0.0;  // nothing more of it is on offer
      }
      if (best == nullptr) {
        std::ranges::copy(codes.first(width_), to.begin());
        continue;
      }
      std::copy_n(best + 1, width_, to.begin());
      errors[worst] -= std::exchange(*best, -1.0f);
      ++reseeded;
    }
    return reseeded;
  }

  absl::Status Finetune() {
    const auto dim = static_cast<size_t>(current_.dim());
    std::vector<float> z;  // of what is learnt from
    for (size_t n = 0; n < n_; ++n) {
      if (shard_.weights[n] <= 0.0) continue;
      const std::span<const float> from = shard_.z.subspan(n * dim, dim);
      z.insert(z.end(), from.begin(), from.end());
    }
    CodebookOptions options = options_.finetune;
    // Batches of its own, of all together as many rows as asked for.
    options.seed = MixTwo(options.seed, group_.rank());
    options.batch = std::max(1, options.batch / static_cast<int>(group_.size()));
    const GradientSum sum = [this](std::span<double> values) {
      SAVIOR_RETURN_IF_ERROR(SumOverGroup(&group_, values, InPatience()));
      return budget_.Spend();
    };
    SAVIOR_ASSIGN_OR_RETURN(build_.codebook, FinetuneCodebook(*build_.codebook, z, options, sum));
    return absl::OkStatus();
  }

  absl::Status EncodeLevel(size_t level, std::span<const float> codes) {
    const CodeSearch search(codes, static_cast<int>(width_));
    const auto slack = static_cast<float>(options_.hysteresis * options_.hysteresis);
    return ForEach([&](size_t n) {
      const std::span<float> x = rest(n);
      const CodeSearch::Hit hit = search.Nearest(x);
      const int32_t old = shard_.codes[n * levels_ + level];
      int32_t taken = hit.code;
      if (old != hit.code) {
        float distance = 0.0f;
        const std::span<const float> code = search.code(old);
        for (size_t d = 0; d < width_; ++d) distance += (x[d] - code[d]) * (x[d] - code[d]);
        if (distance <= slack * hit.distance) taken = old;
      }
      build_.codes[n * levels_ + level] = taken;
      const std::span<const float> code = search.code(taken);
      for (size_t d = 0; d < width_; ++d) x[d] -= code[d];
    });
  }

  // Joint weights of codes, errors, use of codes: all sums in one array.
  absl::Status Measure() {
    const size_t joints = levels_ * k_ * k_;
    std::vector<double> sums(joints + levels_ * (k_ + 1) + 3);
    const std::span<double> used = std::span(sums).subspan(joints, levels_ * k_);
    const std::span<double> churn = std::span(sums).subspan(joints + levels_ * k_, levels_);
    const std::span<double> last = std::span(sums).last(3);  // contents, errors before and now
    const auto dim = static_cast<size_t>(current_.dim());
    const std::span<const float> z_in_use = shard_.z_in_use.empty() ? shard_.z : shard_.z_in_use;
    SAVIOR_RETURN_IF_ERROR(ForEach([&](size_t n) {
      if (shard_.weights[n] <= 0.0) return;
      const std::span<const int32_t> now = std::span(build_.codes).subspan(n * levels_, levels_);
      const std::span<const int32_t> before = shard_.codes.subspan(n * levels_, levels_);
      for (size_t l = 0; l < levels_; ++l) {
        const auto from = static_cast<size_t>(before[l]), to = static_cast<size_t>(now[l]);
        sums[(l * k_ + to) * k_ + from] += shard_.weights[n];
        used[l * k_ + to] += 1.0;
        churn[l] += from != to;
      }
      last[0] += 1.0;
      last[1] += Error(current_, before, z_in_use.subspan(n * dim, dim));
      last[2] += Error(*build_.codebook, now, shard_.z.subspan(n * dim, dim));
    }));
    SAVIOR_RETURN_IF_ERROR(SumOverGroup(&group_, sums, InPatience()));
    build_.joint.assign(sums.begin(), sums.begin() + static_cast<std::ptrdiff_t>(joints));
    BuildFigures& figures = build_.figures;
    figures.contents = last[0];
    figures.rq_mse_before = last[1] / last[0];
    figures.rq_mse = last[2] / last[0];
    for (size_t l = 0; l < levels_; ++l) {
      figures.levels.push_back(UseOf(used.subspan(l * k_, k_)));
      figures.churn.push_back(churn[l] / last[0]);
    }
    return absl::OkStatus();
  }

  static double Error(const Codebook& codebook, std::span<const int32_t> codes,
                      std::span<const float> z) {
    const std::vector<float> decoded = codebook.Decode(codes);
    double error = 0.0;
    for (size_t d = 0; d < z.size(); ++d) {
      const double difference = static_cast<double>(z[d]) - decoded[d];
      error += difference * difference;
    }
    return error;
  }

  const Codebook& current_;
  const ContentShard& shard_;
  const BuildOptions& options_;
  Group& group_;
  WorkBudget& budget_;
  const size_t n_, levels_, k_, width_;
  double all_contents_ = 0;  // that are learnt from, of all workers
  std::vector<float> rest_;  // [n, width] latents, less the codes of the levels so far
  CodebookBuild build_;
};

}  // namespace

absl::StatusOr<CodebookBuild> BuildCodebook(const Codebook& current, const ContentShard& shard,
                                            const BuildOptions& options, Group* group,
                                            WorkBudget* budget) {
  return Builder(current, shard, options, group, budget).Build();
}

}  // namespace savior
