#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <glog/logging.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "common/progress.h"
#include "common/random.h"
#include "worker/model/codebook.h"
#include "worker/model/codebook_weights.h"
#include "worker/model/contrastive.h"
#include "worker/model/kmeans.h"
#include "worker/model/pca.h"
#include "worker/model/trainable_mlp.h"

namespace savior {
namespace {

// Streams of the seed.
constexpr uint64_t kInitialWeights = 1;
constexpr uint64_t kBatches = 2;
constexpr uint64_t kReseeds = 3;
constexpr uint64_t kSample = 4;

// k-means and the search for dead codes look at no more rows than this per code: centroids gain
// nothing from more.
constexpr size_t kRowsPerCode = 1024;
// Dead codes are looked for this often, in the first kReseedShare of the steps: a late newcomer
// would stay raw.
constexpr int kReseedEvery = 50;
constexpr double kReseedShare = 0.7;

// What training learns from. Rows are contents.
struct Examples {
  std::span<const float> z;  // [n, dim]
  size_t dim = 0;
  std::span<const float> weights;  // [n] or empty
  size_t size() const { return z.size() / dim; }
};

absl::Status Validate(const Examples& examples, const CodebookOptions& options) {
  const auto refuse = [](const auto&... words) {
    return absl::InvalidArgumentError(absl::StrCat(words...));
  };
  const auto within = [](auto value, auto low, auto high) { return value >= low && value <= high; };
  if (examples.z.empty() || examples.z.size() % examples.dim != 0) {
    return refuse("codebook: ", examples.z.size(), " values are no rows of ", examples.dim);
  }
  if (!std::ranges::all_of(examples.z, [](float v) { return std::isfinite(v); })) {
    return refuse("codebook: z holds a value that is not finite");
  }
  if (!examples.weights.empty() && examples.weights.size() != examples.size()) {
    return refuse("codebook: ", examples.weights.size(), " weights for ", examples.size(), " rows");
  }
  if (!std::ranges::all_of(examples.weights,
                           [](float v) { return v > 0.0f && std::isfinite(v); })) {
    return refuse("codebook: a weight is not in (0, inf)");
  }
  if (!within(options.levels, 1, 8))
    return refuse("codebook levels is ", options.levels, ", not in [1, 8]");
  if (!within(options.codes, 2, 4096))
    return refuse("codebook codes is ", options.codes, ", not in [2, 4096]");
  if (options.kmeans_iterations < 1)
    return refuse("codebook kmeans_iterations is ", options.kmeans_iterations, ", not positive");
  if (options.finetune_steps < 0)
    return refuse("codebook finetune_steps is ", options.finetune_steps, ", negative");
  if (options.finetune_steps == 0) return absl::OkStatus();
  if (!within(options.latent, 0, static_cast<int>(examples.dim))) {
    return refuse("codebook latent is ", options.latent, ", not in [0, ", examples.dim,
                  "] (the dim of z)");
  }
  if (options.hidden < 1) return refuse("codebook hidden is ", options.hidden, ", not positive");
  if (options.batch < 4) return refuse("codebook batch is ", options.batch, ", below 4");
  if (!(options.lr > 0.0)) return refuse("codebook lr is ", options.lr, ", not positive");
  if (!(options.temperature > 0.0))
    return refuse("codebook temperature is ", options.temperature, ", not positive");
  if (!(options.beta >= 0.0 && options.contrastive_weight >= 0.0 && options.weight_decay >= 0.0)) {
    return refuse("codebook beta, contrastive_weight and weight_decay must not be negative");
  }
  return absl::OkStatus();
}

// All rows, or a seeded sample of them, ascending.
std::vector<int64_t> SampleRows(size_t n, size_t most, uint64_t seed) {
  std::vector<int64_t> rows(n);
  std::iota(rows.begin(), rows.end(), 0);
  if (n <= most) return rows;
  Random random(seed, kSample);
  for (size_t i = 0; i < most; ++i) std::swap(rows[i], rows[i + random.Below(n - i)]);
  rows.resize(most);
  std::ranges::sort(rows);
  return rows;
}

std::vector<float> Gather(std::span<const float> values, size_t dim,
                          std::span<const int64_t> rows) {
  std::vector<float> result;
  if (values.empty()) return result;
  result.reserve(rows.size() * dim);
  for (const int64_t row : rows) {
    const std::span<const float> from = values.subspan(static_cast<size_t>(row) * dim, dim);
    result.insert(result.end(), from.begin(), from.end());
  }
  return result;
}

// Linear projection onto the main directions of z and back, with silent MLPs beside.
void StartFromComponents(std::span<const float> z, const CodebookOptions& options,
                         CodebookWeights* weights) {
  const int dim = weights->dim;
  const int latent = options.latent == 0 ? dim : options.latent;
  const auto rows = static_cast<size_t>(latent), columns = static_cast<size_t>(dim);
  PrincipalComponents components(dim);
  components.Add(z);
  const std::vector<float> basis = components.Find(latent, /*centred=*/false).basis;
  std::vector<float> back(basis.size());
  for (size_t d = 0; d < columns; ++d) {
    for (size_t l = 0; l < rows; ++l) back[l * columns + d] = basis[d * rows + l];
  }
  Random random(options.seed, kInitialWeights);
  weights->latent = latent;
  weights->encoder = {basis, RandomMlp(dim, options.hidden, latent, &random)};
  weights->decoder = {back, RandomMlp(latent, options.hidden, dim, &random)};
  for (Projection* projection : {&*weights->encoder, &*weights->decoder}) {
    std::ranges::fill(projection->mlp.w2, 0.0f);
    std::ranges::fill(projection->mlp.b2, 0.0f);
  }
}

class TrainableProjection {
 public:
  explicit TrainableProjection(const Projection& start)
      : skip_(FromHost(start.skip, {start.mlp.inputs, start.mlp.outputs}).requires_grad_()),
        mlp_(start.mlp) {}

  at::Tensor Forward(const at::Tensor& x) const { return at::matmul(x, skip_) + mlp_.Forward(x); }

  std::vector<at::Tensor> parameters() const {
    std::vector<at::Tensor> all = mlp_.parameters();
    all.push_back(skip_);
    return all;
  }

  Projection Take() const { return {ToHost(skip_), mlp_.Take()}; }

 private:
  const at::Tensor skip_;  // [inputs, outputs]
  const TrainableMlp mlp_;
};

// The codebook as autograd sees it. Single-threaded.
class RqModel {
 public:
  explicit RqModel(const CodebookWeights& start)
      : encoder_(*start.encoder),
        decoder_(*start.decoder),
        embeddings_(FromHost(start.embeddings, {start.levels, start.codes, start.latent})
                        .requires_grad_()) {}

  struct Output {
    at::Tensor
        decoded;  // [n, dim] z^; its gradient passes straight through the codes to the encoder
    at::Tensor codebook;  // sum_l |sg r_l - e|^2, mean over rows
    at::Tensor commit;    // sum_l |r_l - sg e|^2, mean over rows
  };

  Output Forward(const at::Tensor& z) const {
    const at::Tensor latent = encoder_.Forward(z);
    at::Tensor rest = latent;
    at::Tensor codebook = at::zeros({});
    at::Tensor commit = at::zeros({});
    for (int64_t level = 0; level < embeddings_.size(0); ++level) {
      const at::Tensor codes = embeddings_.select(0, level);
      const at::Tensor chosen = codes.index_select(0, Nearest(rest.detach(), codes.detach()));
      codebook = codebook + (rest.detach() - chosen).square().sum(1).mean();
      commit = commit + (rest - chosen.detach()).square().sum(1).mean();
      rest = rest - chosen.detach();
    }
    return {decoder_.Forward(latent - rest.detach()), codebook, commit};
  }

  at::Tensor Encode(const at::Tensor& z) const { return encoder_.Forward(z); }

  std::vector<at::Tensor> parameters() const {
    std::vector<at::Tensor> all = encoder_.parameters();
    for (const at::Tensor& parameter : decoder_.parameters()) all.push_back(parameter);
    all.push_back(embeddings_);
    return all;
  }

  // [levels, codes, latent]; not known to autograd, writable.
  at::Tensor codes() const { return embeddings_.detach(); }

  void Take(CodebookWeights* weights) const {
    weights->encoder = encoder_.Take();
    weights->decoder = decoder_.Take();
    weights->embeddings = ToHost(embeddings_);
  }

 private:
  static at::Tensor Nearest(const at::Tensor& x, const at::Tensor& codes) {
    return (codes.square().sum(1) - 2.0 * at::matmul(x, codes.t())).argmin(1);
  }

  const TrainableProjection encoder_;
  const TrainableProjection decoder_;
  const at::Tensor embeddings_;  // [levels, codes, latent]
};

// Moves every code of `codes` [K, latent] that none of `rows` [n, latent] is nearest to onto a row
// of the code with the largest error; then takes the codes off the rows.
int ReseedLevel(const at::Tensor& codes, std::vector<float>* rows, Random* random) {
  const auto latent = static_cast<size_t>(codes.size(1));
  const auto k = static_cast<size_t>(codes.size(0));
  const CodeSearch search(ToHost(codes), static_cast<int>(latent));
  std::vector<std::vector<size_t>> members(k);
  std::vector<double> errors(k);
  for (size_t i = 0; i * latent < rows->size(); ++i) {
    const std::span<float> row = std::span(*rows).subspan(i * latent, latent);
    const CodeSearch::Hit hit = search.Nearest(row);
    members[static_cast<size_t>(hit.code)].push_back(i);
    errors[static_cast<size_t>(hit.code)] += hit.distance;
  }
  int reseeded = 0;
  for (size_t dead = 0; dead < k; ++dead) {
    if (!members[dead].empty()) continue;
    const auto worst = static_cast<size_t>(std::ranges::max_element(errors) - errors.begin());
    if (members[worst].size() < 2 || errors[worst] < 1e-9) break;  // fewer distinct rows than codes
    const size_t row = members[worst][random->Below(members[worst].size())];
    codes[static_cast<int64_t>(dead)].copy_(
        FromHost(std::span(*rows).subspan(row * latent, latent), {codes.size(1)}));
    errors[worst] /= 2.0;  // roughly what the newcomer takes over
    ++reseeded;
  }
  for (size_t c = 0; c < k; ++c) {
    const std::span<const float> code = search.code(static_cast<int32_t>(c));
    for (const size_t i : members[c]) {
      for (size_t d = 0; d < latent; ++d) (*rows)[i * latent + d] -= code[d];
    }
  }
  return reseeded;
}

int ReseedDead(const RqModel& model, const at::Tensor& sample, Random* random) {
  const at::NoGradGuard no_grad;
  std::vector<float> rows = ToHost(model.Encode(sample));
  int reseeded = 0;
  for (int64_t level = 0; level < model.codes().size(0); ++level) {
    reseeded += ReseedLevel(model.codes().select(0, level), &rows, random);
  }
  return reseeded;
}

// Draws rows by their weight.
class RowSampler {
 public:
  explicit RowSampler(const Examples& examples) : cumulative_(examples.size()) {
    double total = 0.0;
    for (size_t i = 0; i < cumulative_.size(); ++i) {
      cumulative_[i] = total += examples.weights.empty() ? 1.0 : examples.weights[i];
    }
  }

  std::vector<int64_t> Draw(int n, Random* random) const {
    std::vector<int64_t> rows;
    for (int i = 0; i < n; ++i) {
      const double mark = random->Uniform() * cumulative_.back();
      const auto drawn = std::ranges::upper_bound(cumulative_, mark) - cumulative_.begin();
      rows.push_back(std::min<int64_t>(drawn, static_cast<int64_t>(cumulative_.size()) - 1));
    }
    return rows;
  }

 private:
  std::vector<double> cumulative_;
};

// L_con(z^) over half a batch of pairs.
at::Tensor ContrastiveLoss(const RqModel& model, const Examples& examples, PairSampler* pairs,
                           const CodebookOptions& options, Random* random) {
  const int n = options.batch / 2;
  const PairBatch batch = pairs->Draw(n, random);
  std::vector<int64_t> rows = batch.triggers;
  rows.insert(rows.end(), batch.targets.begin(), batch.targets.end());
  const at::Tensor z =
      FromHost(Gather(examples.z, examples.dim, rows), {2 * n, static_cast<int64_t>(examples.dim)});
  const std::vector<at::Tensor> decoded = model.Forward(z).decoded.split(n);
  return InfoNce(decoded[0], decoded[1], batch.masked, options.temperature);
}

// Replaces the gradients by their means over all who learn together. A learner without rows gives
// none.
absl::Status SumGradients(const std::vector<at::Tensor>& parameters, bool has_rows,
                          const GradientSum& sum) {
  std::vector<double> all;
  for (const at::Tensor& parameter : parameters) {
    const std::vector<float> gradient =
        has_rows ? ToHost(parameter.grad())
                 : std::vector<float>(static_cast<size_t>(parameter.numel()));
    all.insert(all.end(), gradient.begin(), gradient.end());
  }
  all.push_back(has_rows ? 1.0 : 0.0);
  SAVIOR_RETURN_IF_ERROR(sum(all));
  const double learners = std::max(all.back(), 1.0);
  auto from = all.begin();
  for (const at::Tensor& parameter : parameters) {
    std::vector<float> mean;
    for (int64_t i = 0; i < parameter.numel(); ++i) {
      mean.push_back(static_cast<float>(*from++ / learners));
    }
    parameter.mutable_grad() = FromHost(mean, parameter.sizes());
  }
  return absl::OkStatus();
}

// What is learnt beside the rows' own reconstruction, and with whom.
struct FinetuneExtras {
  std::span<const ContentPair> pairs = {};
  std::span<const float> sample = {};  // rows that dead codes are moved onto; none: they stay
  const GradientSum* sum = nullptr;    // null: alone
};

absl::Status Finetune(const Examples& examples, const CodebookOptions& options,
                      const FinetuneExtras& extras, CodebookWeights* weights) {
  const auto dim = static_cast<int64_t>(examples.dim);
  const RqModel model(*weights);
  torch::optim::AdamW optimizer(
      model.parameters(),
      torch::optim::AdamWOptions(options.lr).weight_decay(options.weight_decay));
  const RowSampler rows(examples);
  std::optional<PairSampler> pair_sampler;
  if (!extras.pairs.empty() && options.contrastive_weight > 0.0) {
    pair_sampler.emplace(extras.pairs, static_cast<int64_t>(examples.size()));
  }
  const at::Tensor sampled =
      FromHost(extras.sample, {static_cast<int64_t>(extras.sample.size()) / dim, dim});
  Random batches(options.seed, kBatches);
  Random reseeds(options.seed, kReseeds);
  std::optional<Progress> progress;
  if (extras.sum == nullptr) progress.emplace("codebook", options.finetune_steps, "steps");
  int reseeded = 0;
  for (int step = 0; step < options.finetune_steps; ++step) {
    const double lr = options.lr * (1.0 - static_cast<double>(step) / options.finetune_steps);
    static_cast<torch::optim::AdamWOptions&>(optimizer.param_groups()[0].options()).lr(lr);
    if (!extras.sample.empty() && step > 0 && step % kReseedEvery == 0 &&
        step < kReseedShare * options.finetune_steps) {
      reseeded += ReseedDead(model, sampled, &reseeds);
    }
    optimizer.zero_grad();
    double error = 0.0;
    if (examples.size() > 0) {
      const at::Tensor z =
          FromHost(Gather(examples.z, examples.dim, rows.Draw(options.batch, &batches)),
                   {options.batch, dim});
      const RqModel::Output output = model.Forward(z);
      const at::Tensor reconstruction = (output.decoded - z).square().sum(1).mean();
      at::Tensor loss = reconstruction + output.codebook + options.beta * output.commit;
      if (pair_sampler) {
        loss = loss + options.contrastive_weight *
                          ContrastiveLoss(model, examples, &*pair_sampler, options, &batches);
      }
      loss.backward();
      error = reconstruction.item<double>();
    }
    if (extras.sum != nullptr) {
      SAVIOR_RETURN_IF_ERROR(SumGradients(model.parameters(), examples.size() > 0, *extras.sum));
    }
    optimizer.step();
    if (progress) progress->Update(step + 1, absl::StrFormat("|z - z^|^2 %.4f", error));
  }
  if (progress) progress->Finish(absl::StrCat(reseeded, " dead codes reseeded"));
  model.Take(weights);
  return absl::OkStatus();
}

CodebookWeights Train(const Examples& examples, std::span<const ContentPair> pairs,
                      const CodebookOptions& options) {
  CodebookWeights weights;
  weights.dim = weights.latent = static_cast<int>(examples.dim);
  weights.levels = options.levels;
  weights.codes = options.codes;
  const std::vector<int64_t> rows =
      SampleRows(examples.size(), kRowsPerCode * static_cast<size_t>(options.codes), options.seed);
  const std::vector<float> sample = Gather(examples.z, examples.dim, rows);
  if (options.finetune_steps > 0) StartFromComponents(sample, options, &weights);
  weights.embeddings = TrainResidualKMeans(
      Latents(weights, sample), weights.latent, Gather(examples.weights, 1, rows), options.levels,
      {.codes = options.codes, .iterations = options.kmeans_iterations, .seed = options.seed});
  if (options.finetune_steps > 0) {
    const double start = Measure(*MakeCodebook(weights), sample).rq_mse;
    const absl::Status done =
        Finetune(examples, options, {.pairs = pairs, .sample = sample}, &weights);
    CHECK(done.ok()) << done;  // alone, nothing can fail
    LOG(INFO) << "codebook: |z - z^|^2 " << start << " after k-means, "
              << Measure(*MakeCodebook(weights), sample).rq_mse << " after fine-tuning";
  }
  return weights;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Codebook>> TrainCodebook(std::span<const float> z, int dim,
                                                        std::span<const float> weights,
                                                        std::span<const ContentPair> pairs,
                                                        const CodebookOptions& options) {
  if (dim < 1)
    return absl::InvalidArgumentError(absl::StrCat("codebook: dim is ", dim, ", not positive"));
  const Examples examples{.z = z, .dim = static_cast<size_t>(dim), .weights = weights};
  SAVIOR_RETURN_IF_ERROR(Validate(examples, options));
  SAVIOR_RETURN_IF_ERROR(CheckPairs(pairs, static_cast<int64_t>(examples.size())));
  try {
    return MakeCodebook(Train(examples, pairs, options));
  } catch (const c10::Error& error) {
    return absl::InternalError(
        absl::StrCat("training the codebook: ", error.what_without_backtrace()));
  }
}

absl::StatusOr<std::unique_ptr<Codebook>> FinetuneCodebook(const Codebook& start,
                                                           std::span<const float> z,
                                                           const CodebookOptions& options,
                                                           const GradientSum& sum) {
  CodebookWeights tuned = WeightsOf(start);
  if (!tuned.encoder || options.finetune_steps == 0) return MakeCodebook(std::move(tuned));
  const Examples examples{z, static_cast<size_t>(tuned.dim), {}};
  try {
    SAVIOR_RETURN_IF_ERROR(Finetune(examples, options, {.sum = &sum}, &tuned));
    return MakeCodebook(std::move(tuned));
  } catch (const c10::Error& error) {
    return absl::InternalError(
        absl::StrCat("fine-tuning the codebook: ", error.what_without_backtrace()));
  }
}

}  // namespace savior
