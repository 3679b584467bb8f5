#include "worker/refresh/distil.h"

#include <absl/strings/str_cat.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/random.h"
#include "worker/model/dense.h"
#include "worker/model/trainable_mlp.h"

namespace savior {
namespace {

constexpr uint64_t kBatches = 0xD157;
// Contents evaluated at once where no gradient is wanted.
constexpr size_t kEvaluated = 4096;

at::Tensor Int64(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); }

// Some rows of values [n, dim].
at::Tensor RowsOf(const std::vector<float>& values, size_t dim, std::span<const size_t> rows) {
  std::vector<float> some;
  some.reserve(rows.size() * dim);
  for (const size_t row : rows) {
    const auto from = values.begin() + static_cast<std::ptrdiff_t>(row * dim);
    some.insert(some.end(), from, from + static_cast<std::ptrdiff_t>(dim));
  }
  return FromHost(some, {static_cast<int64_t>(rows.size()), static_cast<int64_t>(dim)});
}

// D of some contents, as autograd sees it.
class FusionTensors {
 public:
  explicit FusionTensors(const Fusion& fusion) : fusion_(fusion) {
    const auto dim = static_cast<int64_t>(fusion.dim), hidden = static_cast<int64_t>(fusion.hidden);
    if (hidden == 0) return;
    in_ = FromHost(fusion.in, {hidden, static_cast<int64_t>(fusion.parts) * dim});
    out_ = FromHost(fusion.out, {dim, hidden});
  }

  // rows [levels * K, dim]; codes, rest: [contents, ...] of the sample.
  at::Tensor Forward(const at::Tensor& rows, size_t num_codes, const AlignSample& sample,
                     const std::vector<int32_t>& codes, const std::vector<float>& rest,
                     std::span<const size_t> contents) const {
    std::vector<at::Tensor> parts;
    for (size_t l = 0; l < sample.levels; ++l) {
      std::vector<int64_t> places;
      for (const size_t c : contents) {
        places.push_back(static_cast<int64_t>(l * num_codes +
                                              static_cast<size_t>(codes[c * sample.levels + l])));
      }
      parts.push_back(rows.index_select(0, Int64(places)));
    }
    if (!rest.empty()) {
      parts.push_back(RowsOf(rest, (fusion_.parts - sample.levels) * fusion_.dim, contents));
    }
    at::Tensor all = at::cat(parts, 1);
    if (fusion_.hidden == 0) return all;
    return at::linear(at::silu(at::linear(all, in_)), out_);
  }

  size_t dim() const { return fusion_.dim; }

 private:
  const Fusion& fusion_;
  at::Tensor in_, out_;
};

at::Tensor AllRowsOf(const AlignRows& align, size_t dim) {
  return FromHost(align.rows,
                  {static_cast<int64_t>(align.rows.size() / dim), static_cast<int64_t>(dim)});
}

at::Tensor WeightsOf(const AlignSample& sample, std::span<const size_t> contents) {
  std::vector<float> weights;
  for (const size_t c : contents) weights.push_back(static_cast<float>(sample.weights[c]));
  return FromHost(weights, {static_cast<int64_t>(weights.size())});
}

const std::vector<float>& RestNow(const AlignSample& sample) {
  return sample.rest_now.empty() ? sample.rest : sample.rest_now;
}

// What D' is to be.
at::Tensor TargetOf(const FusionTensors& map, const at::Tensor& old_rows, size_t num_codes,
                    const AlignSample& sample, std::span<const size_t> contents) {
  at::Tensor target =
      map.Forward(old_rows, num_codes, sample, sample.before, sample.rest, contents);
  if (!sample.z_change.empty()) target += RowsOf(sample.z_change, map.dim(), contents);
  return target;
}

absl::Status DistilRows(const Fusion& fusion, const AlignRows& before, const AlignSample& sample,
                        const DistilOptions& options, AlignRows* now,
                        const std::function<absl::Status()>& breathe) {
  const FusionTensors map(fusion);
  const at::Tensor old_rows = AllRowsOf(before, fusion.dim);
  const at::Tensor rows = AllRowsOf(*now, fusion.dim).requires_grad_();
  torch::optim::Adam adam({rows}, torch::optim::AdamOptions(options.lr));
  Random random(options.seed, kBatches);
  const size_t batch = std::min(sample.size(), static_cast<size_t>(options.batch));
  std::vector<size_t> contents(batch);
  for (int step = 0; step < options.steps; ++step) {
    // All of a small sample, else drawn anew.
    for (size_t i = 0; i < batch; ++i) {
      contents[i] = batch == sample.size() ? i : random.Below(sample.size());
    }
    at::Tensor target;
    {
      const at::NoGradGuard no_grad;
      target = TargetOf(map, old_rows, before.codes, sample, contents);
    }
    const at::Tensor got =
        map.Forward(rows, now->codes, sample, sample.now, RestNow(sample), contents);
    const at::Tensor weights = WeightsOf(sample, contents);
    const at::Tensor loss = ((got - target).square().sum(1) * weights).sum() / weights.sum();
    // To 0, so that the rows settle.
    static_cast<torch::optim::AdamOptions&>(adam.param_groups()[0].options())
        .lr(options.lr * (1.0 - static_cast<double>(step) / options.steps));
    adam.zero_grad();
    loss.backward();
    adam.step();
    SAVIOR_RETURN_IF_ERROR(breathe());
  }
  now->rows = ToHost(rows);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Fusion> FusionOf(const TensorFile& dense, size_t dim, size_t parts) {
  const auto width = static_cast<int64_t>(dim);
  SAVIOR_ASSIGN_OR_RETURN(HostTensor in, TakeTensor(dense, "fusion.in.weight",
                                                    {-1, static_cast<int64_t>(parts) * width}));
  const int64_t hidden = in.shape[0];
  SAVIOR_ASSIGN_OR_RETURN(HostTensor out, TakeTensor(dense, "fusion.out.weight", {width, hidden}));
  return Fusion{dim, parts, static_cast<size_t>(hidden), std::move(in.data), std::move(out.data)};
}

absl::Status Distil(const Fusion& fusion, const AlignRows& before, const AlignSample& sample,
                    const DistilOptions& options, AlignRows* now,
                    const std::function<absl::Status()>& breathe) {
  if (sample.size() == 0 || options.steps == 0) return absl::OkStatus();
  try {
    return DistilRows(fusion, before, sample, options, now, breathe);
  } catch (const c10::Error& error) {
    return absl::InternalError(
        absl::StrCat("distilling alignment rows: ", error.what_without_backtrace()));
  }
}

double PreservedR2(const Fusion& fusion, const AlignRows& before, const AlignRows& now,
                   const AlignSample& sample) {
  const at::NoGradGuard no_grad;
  const FusionTensors map(fusion);
  const at::Tensor old_rows = AllRowsOf(before, fusion.dim), new_rows = AllRowsOf(now, fusion.dim);
  double lost = 0.0, all = 0.0;
  std::vector<size_t> contents;
  for (size_t begin = 0; begin < sample.size(); begin += kEvaluated) {
    contents.clear();
    for (size_t c = begin; c < std::min(sample.size(), begin + kEvaluated); ++c) {
      contents.push_back(c);
    }
    const at::Tensor weights = WeightsOf(sample, contents).to(at::kDouble);
    const at::Tensor d = TargetOf(map, old_rows, before.codes, sample, contents).to(at::kDouble);
    const at::Tensor now_d =
        map.Forward(new_rows, now.codes, sample, sample.now, RestNow(sample), contents)
            .to(at::kDouble);
    lost += ((now_d - d).square().sum(1) * weights).sum().item<double>();
    all += (d.square().sum(1) * weights).sum().item<double>();
  }
  return all > 0.0 ? 1.0 - lost / all : 1.0;
}

}  // namespace savior
