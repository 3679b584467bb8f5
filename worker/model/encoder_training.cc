#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <glog/logging.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "common/progress.h"
#include "common/random.h"
#include "worker/model/contrastive.h"
#include "worker/model/encoder.h"
#include "worker/model/encoder_weights.h"
#include "worker/model/pca.h"
#include "worker/model/trainable_mlp.h"

namespace savior {
namespace {

// Streams of the seed.
constexpr uint64_t kInitialWeights = 1;
constexpr uint64_t kBatches = 2;

int InputDim(const TrainingLog& log) {
  int dim = 0;
  for (const Modality& modality : log.schema().modalities) dim += modality.dim;
  return dim;
}

absl::Status Validate(const EncoderOptions& options, int input_dim) {
  const auto refuse = [](const auto&... words) {
    return absl::InvalidArgumentError(absl::StrCat(words...));
  };
  const auto positive = [](double v) { return v > 0.0 && std::isfinite(v); };
  if (options.dim < 1 || options.dim > input_dim) {
    return refuse("encoder dim is ", options.dim, ", not in [1, ", input_dim,
                  "] (the modalities' dims)");
  }
  if (options.hidden < 1) return refuse("encoder hidden is ", options.hidden, ", not positive");
  if (options.batch < 2) return refuse("encoder batch is ", options.batch, ", not above 1");
  if (options.steps < 0) return refuse("encoder steps is ", options.steps, ", negative");
  if (!positive(options.temperature))
    return refuse("encoder temperature is ", options.temperature, ", not positive");
  if (!positive(options.lr)) return refuse("encoder lr is ", options.lr, ", not positive");
  if (!(options.weight_decay >= 0.0))
    return refuse("encoder weight_decay is ", options.weight_decay, ", negative");
  if (options.initial_alpha == 0.0 || !std::isfinite(options.initial_alpha)) {
    return refuse("encoder initial_alpha is ", options.initial_alpha,
                  ": it must be finite and not 0");
  }
  return absl::OkStatus();
}

// Contents that some item listed before `until` has, ascending.
std::vector<int32_t> ListedContents(const TrainingLog& log, int64_t until) {
  std::vector<char> listed(static_cast<size_t>(log.num_contents()));
  for (size_t item = 0; item < static_cast<size_t>(log.num_items()); ++item) {
    const int32_t content = log.item_contents()[item];
    if (content >= 0 && log.listed_at()[item] < until) listed[static_cast<size_t>(content)] = 1;
  }
  std::vector<int32_t> contents;
  for (size_t c = 0; c < listed.size(); ++c) {
    if (listed[c]) contents.push_back(static_cast<int32_t>(c));
  }
  return contents;
}

EncoderWeights FitAnchor(const TrainingLog& log, std::span<const int32_t> contents, int input_dim,
                         int dim) {
  constexpr size_t kRows = 4096;  // bounds the memory for inputs
  PrincipalComponents components(input_dim);
  for (size_t begin = 0; begin < contents.size(); begin += kRows) {
    components.Add(
        EncoderInputs(log, contents.subspan(begin, std::min(kRows, contents.size() - begin))));
  }
  Components found = components.Find(dim, /*centred=*/true);
  EncoderWeights weights;
  weights.input_dim = input_dim;
  weights.dim = dim;
  weights.mean = std::move(found.mean);
  weights.basis = std::move(found.basis);
  return weights;
}

at::Tensor Unit(const at::Tensor& x) {
  return torch::nn::functional::normalize(
      x, torch::nn::functional::NormalizeFuncOptions().dim(1).eps(1e-8));
}

// The residual form as a function that autograd knows. Its anchor is fixed; what has an MLP goes on
// from it.
class ResidualModel {
 public:
  ResidualModel(const EncoderWeights& start, const EncoderOptions& options)
      : mean_(FromHost(start.mean, {start.input_dim})),
        basis_(FromHost(start.basis, {start.input_dim, start.dim})),
        mlp_(start.mlp ? *start.mlp : Initial(start, options)),
        alpha_(at::full({1}, start.mlp ? start.alpha : options.initial_alpha, at::kFloat)
                   .requires_grad_()) {}

  // x [n, input_dim] -> z [n, dim], unit length.
  at::Tensor Forward(const at::Tensor& x) const {
    const at::Tensor centred = x - mean_;
    const at::Tensor anchor = Unit(at::matmul(centred, basis_));
    return Unit(anchor + alpha_ * Unit(mlp_.Forward(kInputScale * Unit(centred))));
  }

  std::vector<at::Tensor> parameters() const {
    std::vector<at::Tensor> all = mlp_.parameters();
    all.push_back(alpha_);
    return all;
  }

  float alpha() const { return alpha_.item<float>(); }
  Mlp mlp() const { return mlp_.Take(); }

 private:
  static Mlp Initial(const EncoderWeights& anchor, const EncoderOptions& options) {
    Random random(options.seed, kInitialWeights);
    return RandomMlp(anchor.input_dim, options.hidden, anchor.dim, &random);
  }

  const at::Tensor mean_;
  const at::Tensor basis_;
  const TrainableMlp mlp_;
  const at::Tensor alpha_;
};

at::Tensor InputTensor(const TrainingLog& log, const PairBatch& batch, int input_dim) {
  std::vector<int32_t> contents(batch.triggers.begin(), batch.triggers.end());
  contents.insert(contents.end(), batch.targets.begin(), batch.targets.end());
  return FromHost(EncoderInputs(log, contents), {static_cast<int64_t>(contents.size()), input_dim});
}

// After each step of training: how many are done, and a running mean of the loss.
using AfterEncoderStep = std::function<absl::Status(int step, double loss)>;

absl::Status TrainResidual(const TrainingLog& log, std::span<const ContentPair> pairs,
                           const EncoderOptions& options, EncoderWeights* weights,
                           const AfterEncoderStep& after) {
  const ResidualModel model(*weights, options);
  torch::optim::AdamW optimizer(
      model.parameters(),
      torch::optim::AdamWOptions(options.lr).weight_decay(options.weight_decay));
  PairSampler sampler(pairs, log.num_contents());
  Random random(options.seed, kBatches);
  double loss_mean = 0.0;
  for (int step = 0; step < options.steps; ++step) {
    const double lr = options.lr * (1.0 - static_cast<double>(step) / options.steps);
    static_cast<torch::optim::AdamWOptions&>(optimizer.param_groups()[0].options()).lr(lr);
    const PairBatch batch = sampler.Draw(options.batch, &random);
    const std::vector<at::Tensor> z =
        model.Forward(InputTensor(log, batch, weights->input_dim)).split(options.batch);
    const at::Tensor loss = InfoNce(z[0], z[1], batch.masked, options.temperature);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    loss_mean += (loss.item<double>() - loss_mean) / std::min(step + 1, 20);
    SAVIOR_RETURN_IF_ERROR(after(step + 1, loss_mean));
  }
  weights->mlp = model.mlp();
  weights->alpha = model.alpha();
  return absl::OkStatus();
}

absl::Status TrainWithProgress(const TrainingLog& log, std::span<const ContentPair> pairs,
                               const EncoderOptions& options, EncoderWeights* weights) {
  Progress progress("SaviorEnc", options.steps, "steps");
  double loss = 0.0;
  SAVIOR_RETURN_IF_ERROR(TrainResidual(log, pairs, options, weights, [&](int step, double mean) {
    progress.Update(step, absl::StrFormat("loss %.3f", mean));
    loss = mean;
    return absl::OkStatus();
  }));
  progress.Finish(absl::StrFormat("loss %.3f, alpha %.2f", loss, weights->alpha));
  return absl::OkStatus();
}

bool Finite(const EncoderWeights& weights) {
  const auto finite = [](const std::vector<float>& values) {
    return std::ranges::all_of(values, [](float v) { return std::isfinite(v); });
  };
  const Mlp& mlp = *weights.mlp;
  return std::isfinite(weights.alpha) && finite(mlp.w1) && finite(mlp.b1) && finite(mlp.w2) &&
         finite(mlp.b2);
}

absl::Status FromTorch(const c10::Error& error) {
  return absl::InternalError(
      absl::StrCat("training the encoder: ", error.what_without_backtrace()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Encoder>> TrainEncoder(const TrainingLog& log,
                                                      std::span<const ContentPair> pairs,
                                                      int64_t pca_until,
                                                      const EncoderOptions& options) {
  const int input_dim = InputDim(log);
  SAVIOR_RETURN_IF_ERROR(Validate(options, input_dim));
  SAVIOR_RETURN_IF_ERROR(CheckPairs(pairs, log.num_contents()));
  const std::vector<int32_t> listed = ListedContents(log, pca_until);
  if (listed.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no item listed before ", pca_until,
                     " has a vector: there is nothing to learn an encoder from"));
  }
  try {
    EncoderWeights weights = FitAnchor(log, listed, input_dim, options.dim);
    if (options.kind == EncoderKind::kSwingResidual) {
      if (pairs.empty()) {
        LOG(WARNING) << "no behaviour pairs: the encoder stays plain PCA";
      } else {
        SAVIOR_RETURN_IF_ERROR(TrainWithProgress(log, pairs, options, &weights));
      }
    }
    return MakeEncoder(std::move(weights));
  } catch (const c10::Error& error) {
    return FromTorch(error);
  }
}

absl::StatusOr<std::unique_ptr<Encoder>> TuneEncoder(const TrainingLog& log, const Encoder& current,
                                                     std::span<const ContentPair> pairs,
                                                     const EncoderOptions& options,
                                                     const std::function<absl::Status()>& breathe) {
  SAVIOR_RETURN_IF_ERROR(Validate(options, InputDim(log)));
  SAVIOR_RETURN_IF_ERROR(CheckPairs(pairs, log.num_contents()));
  SAVIOR_ASSIGN_OR_RETURN(EncoderWeights weights, LoadEncoderWeights(current.Save()));
  if (!weights.mlp || pairs.empty() || options.steps == 0) return nullptr;
  try {
    SAVIOR_RETURN_IF_ERROR(TrainResidual(log, pairs, options, &weights,
                                         [&breathe](int, double) { return breathe(); }));
    if (!Finite(weights)) {
      return absl::FailedPreconditionError(
          "the encoder has diverged: its weights are not finite; use a smaller refresh.encoder_lr");
    }
    return MakeEncoder(std::move(weights));
  } catch (const c10::Error& error) {
    return FromTorch(error);
  }
}

}  // namespace savior
