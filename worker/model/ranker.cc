#include "worker/model/ranker.h"

#include <torch/torch.h>

#include <cmath>
#include <iterator>
#include <string>
#include <utility>

#include "common/random.h"
#include "worker/model/attention.h"
#include "worker/model/device_arrays.h"

namespace savior {
namespace {

// Streams of Random, so that no two uses share numbers.
constexpr uint64_t kWeightStream = 0x5741, kSuffixStream = 0x5355, kIdStream = 0x4944;
constexpr int64_t kNoDropout = -1;  // as a step: scoring

at::Tensor View(const std::vector<float>& values, at::IntArrayRef shape) {
  return at::from_blob(const_cast<float*>(values.data()), shape, at::kFloat);
}

// Rows of `table` at `indices`. Not index_select: embedding's backward adds row by row, fast and in
// order.
at::Tensor Gather(const at::Tensor& table, const at::Tensor& indices) {
  return at::embedding(table, indices);
}

std::vector<float> TakeGradient(const at::Tensor& rows) {
  if (!rows.defined() || !rows.grad().defined()) return {};
  const at::Tensor grad = rows.grad().contiguous();
  return {grad.data_ptr<float>(), grad.data_ptr<float>() + grad.numel()};
}

// -log(pCTR * pCVR) where converted, -log(1 - pCTR * pCVR) elsewhere, from the logits: no
// probability underflows. Summed over the rows.
at::Tensor CtcvrLoss(const at::Tensor& ctr, const at::Tensor& cvr, const at::Tensor& labels) {
  const at::Tensor log_p = at::log_sigmoid(ctr) + at::log_sigmoid(cvr);
  const at::Tensor log_not = at::log(at::clamp_min(-at::expm1(log_p), 1e-7));
  return -(labels * log_p + (1 - labels) * log_not).sum();
}

class ReadyHook final : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit ReadyHook(std::function<void()> ready) : ready_(std::move(ready)) {}
  void operator()(const at::Tensor&) override { ready_(); }

 private:
  const std::function<void()> ready_;
};

}  // namespace

Ranker::Ranker(const Config& config, const Sizes& sizes) : Ranker(config, sizes, Placement{}) {}

Ranker::Ranker(const Config& config, const Sizes& sizes, const Placement& placement)
    : config_(config),
      arm_(ArmOf(config.model.arm)),
      sizes_(sizes),
      modal_(config.encoder.dim),
      prefixes_(arm_.uses_codes() ? static_cast<int64_t>(PrefixesOf(config)) : 0),
      hybrid_(arm_.alignment && !arm_.free_content && config.model.alignment == "hybrid"),
      tiers_(arm_.cross_attention && config.model.simtier),
      device_(placement.device) {
  const int64_t id = config.model.id_dim, hidden = config.model.attention_hidden;
  if (arm_.alignment) {
    const int64_t parts =
        arm_.free_content ? 1 : config.codebook.levels + prefixes_ + (hybrid_ ? 1 : 0);
    // Bias-free and SiLU: with a bias z~ would not start at z, with ReLU the zero rows would never
    // get a gradient.
    fusion_in_ = AddLayer("fusion.in", parts * modal_, config.model.fusion_hidden, false);
    fusion_out_ = AddLayer("fusion.out", config.model.fusion_hidden, modal_, false);
  }
  din_query_ = AddLayer("din.query", id, hidden, true);
  din_history_ = AddLayer("din.history", id, hidden, false);
  din_product_ =
      dense_.Add("din.product", {hidden, id}, 1.0 / std::sqrt(id), config.seed ^ kWeightStream);
  din_score_ =
      dense_.Add("din.score", {hidden}, 1.0 / std::sqrt(hidden), config.seed ^ kWeightStream);
  if (arm_.modal_attention) {
    query_modal_ = AddLayer("attention.query_modal", modal_, modal_, false);
  }
  if (arm_.content) user_modal_ = AddLayer("user_modal", id, modal_, false);
  if (config.model.behaviour_features) {
    behaviour_ =
        AddLayer("behaviour_features", sizes.features * config.model.feature_dim, id, false);
  }
  AddTargetLayers(sizes);

  if (arm_.modal_attention) {
    // Starts as cos(z_t, z_h) at a sharpness that lets near content stand out.
    constexpr float kSharpness = 8.0f;
    const DenseWeights::Parameter& query = dense_.parameters()[query_modal_.weight];
    at::from_blob(dense_.weights().data() + query.offset, query.shape, at::kFloat)
        .copy_(at::eye(modal_) * kSharpness);
  }
  WrapParameters(placement);
}

void Ranker::WrapParameters(const Placement& placement) {
  float* weights = dense_.weights().data();
  float* gradients = dense_.gradients().data();
  if (placement.device_path || !device_.is_cpu()) {
    staging_ = std::make_unique<DeviceStaging>(device_);
    auto arrays =
        std::make_unique<DeviceArrays>(device_, static_cast<int64_t>(dense_.weights().size()));
    weights = arrays->weights().data();
    gradients = arrays->gradients().data();
    dense_.PlaceOn(std::move(arrays));
  }
  const auto options = at::TensorOptions(at::kFloat).device(device_);
  for (const DenseWeights::Parameter& p : dense_.parameters()) {
    at::Tensor tensor = at::from_blob(weights + p.offset, p.shape, options);
    tensors_.push_back(tensor.requires_grad_(true));
    // Autograd adds into a gradient that is there: all gradients end up in one flat array.
    tensors_.back().mutable_grad() = at::from_blob(gradients + p.offset, p.shape, options);
  }
}

void Ranker::AddTargetLayers(const Sizes& sizes) {
  const int64_t id = config_.model.id_dim;
  int64_t width = id;  // BehaviorTA
  if (arm_.modal_attention) width += modal_;
  if (arm_.cross_attention) width += modal_ + id;
  width += 3 * id;                        // u, b_t, u * b_t
  if (arm_.content) width += 2 * modal_;  // z~_t, Wu u * z~_t
  if (arm_.codes_in_dnn) width += (config_.codebook.levels + prefixes_) * modal_;
  if (tiers_) width += kSimilarityTiers;
  width += (sizes.features + sizes.context) * config_.model.feature_dim + sizes.numerics;

  // Sizes were checked when the configuration was read.
  int64_t number = 0;
  const auto dnn = ParseSizes(config_.model.dnn), tower = ParseSizes(config_.model.tower);
  for (const int64_t out : *dnn) {
    dnn_.push_back(AddLayer("dnn." + std::to_string(number++), width, out, true));
    width = out;
  }
  for (auto [name, layers] : {std::pair{"ctr", &ctr_tower_}, std::pair{"cvr", &cvr_tower_}}) {
    int64_t in = width;
    number = 0;
    for (const int64_t out : *tower) {
      layers->push_back(
          AddLayer(std::string(name) + "." + std::to_string(number++), in, out, true));
      in = out;
    }
    layers->push_back(AddLayer(std::string(name) + ".out", in, 1, true));
  }
}

Ranker::Layer Ranker::AddLayer(const std::string& name, int64_t in, int64_t out, bool bias) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(in));
  const uint64_t seed = static_cast<uint64_t>(config_.seed) ^ kWeightStream;
  Layer layer;
  layer.weight = dense_.Add(name + ".weight", {out, in}, bound, seed);
  layer.has_bias = bias;
  if (bias) layer.bias = dense_.Add(name + ".bias", {out}, bound, seed);
  return layer;
}

at::Tensor Ranker::Apply(const Layer& layer, const at::Tensor& x) const {
  if (!layer.has_bias) return at::linear(x, tensors_[layer.weight]);
  return at::linear(x, tensors_[layer.weight], tensors_[layer.bias]);
}

at::Tensor Ranker::Stack(const std::vector<Layer>& layers, at::Tensor x, bool last_linear) const {
  for (size_t i = 0; i < layers.size(); ++i) {
    x = Apply(layers[i], x);
    if (!last_linear || i + 1 < layers.size()) x = at::relu(x);
  }
  return x;
}

StepTensors Ranker::TensorsOf(const StepInputs& in, bool learn) const {
  StepTensors t = HostTensors(in, {.id_dim = config_.model.id_dim,
                                   .feature_dim = config_.model.feature_dim,
                                   .modal = modal_,
                                   .features = sizes_.features,
                                   .context = sizes_.context,
                                   .numerics = sizes_.numerics,
                                   .levels = config_.codebook.levels,
                                   .prefixes = prefixes_,
                                   .content = arm_.content});
  if (staging_) {
    const RowHistories histories = HistoriesOf(in.batch.row_offsets, in.batch.history_offsets);
    const auto of_rows = [](const std::vector<int64_t>& values) {
      return at::from_blob(const_cast<int64_t*>(values.data()),
                           {static_cast<int64_t>(values.size())}, at::kLong);
    };
    t.history_begin = of_rows(histories.begin);
    t.history_length = of_rows(histories.length);
    staging_->NextStep();
    staging_->ToDevice(t.all());
    t.pairs = PairsOf(t.history_begin, t.history_length, histories.pairs);
  }
  for (at::Tensor* rows : {&t.user, &t.item, &t.feature, &t.align, &t.content_vector, &t.prefix}) {
    if (rows->defined()) rows->requires_grad_(learn);
  }
  return t;
}

void Ranker::TakeGradients(const StepTensors& t, RowGradients* grads) const {
  const at::Tensor* const rows[] = {&t.user,  &t.item,           &t.feature,
                                    &t.align, &t.content_vector, &t.prefix};
  std::vector<float>* const to[] = {&grads->user,  &grads->item,           &grads->feature,
                                    &grads->align, &grads->content_vector, &grads->prefix};
  if (!staging_) {
    for (size_t i = 0; i < std::size(rows); ++i) *to[i] = TakeGradient(*rows[i]);
    return;
  }
  std::vector<at::Tensor> gradients;
  for (const at::Tensor* table : rows) {
    gradients.push_back(table->defined() ? table->grad() : at::Tensor());
  }
  std::vector<std::vector<float>> values = staging_->ToHost(gradients);
  for (size_t i = 0; i < std::size(rows); ++i) *to[i] = std::move(values[i]);
}

at::Tensor Ranker::OnDevice(at::Tensor host) const {
  return staging_ ? staging_->ToDevice(std::move(host)) : host;
}

at::Tensor Ranker::Zeros(at::IntArrayRef shape) const {
  return at::zeros(shape, at::TensorOptions(at::kFloat).device(device_));
}

std::vector<at::Tensor> Ranker::CodeRows(const StepTensors& t) const {
  std::vector<at::Tensor> rows;
  for (int64_t l = 0; l < config_.codebook.levels; ++l) {
    rows.push_back(Gather(t.align, t.codes_of_content[l]));
  }
  for (int64_t p = 0; p < prefixes_; ++p) {
    rows.push_back(Gather(t.prefix, t.prefixes_of_content[p]));
  }
  return rows;
}

// [C, parts, 1] of 0 and 1: for a share of the contents a random suffix of the parts is dropped, so
// that coarse parts learn to stand alone: that is what an unseen content has.
at::Tensor Ranker::SuffixMask(const StepInputs& in, int64_t parts, int64_t step) const {
  const auto n = static_cast<int64_t>(in.content_keys.size());
  at::Tensor mask = at::ones({n, parts, 1});
  float* m = mask.data_ptr<float>();
  for (int64_t c = 0; c < n; ++c) {
    Random random(static_cast<uint64_t>(config_.seed) ^ kSuffixStream,
                  MixTwo(static_cast<uint64_t>(step), in.content_keys[static_cast<size_t>(c)]));
    if (random.Uniform() >= config_.model.hybrid_suffix_dropout) continue;
    const auto kept = static_cast<int64_t>(random.Below(static_cast<uint64_t>(parts)));
    for (int64_t p = kept; p < parts; ++p) m[c * parts + p] = 0.0f;
  }
  return mask;
}

at::Tensor Ranker::Align(const StepInputs& in, const StepTensors& t, int64_t step) const {
  const auto n = static_cast<int64_t>(in.content_keys.size());
  if (!arm_.alignment || n == 0) return t.z;
  std::vector<at::Tensor> parts;
  if (!arm_.free_content) parts = CodeRows(t);
  if (hybrid_) {
    // Finest part: the content's own vector, shrunk towards what its codes say until it has been
    // seen often.
    at::Tensor shrink = at::empty({n, 1});
    for (int64_t c = 0; c < n; ++c) {
      const double seen = in.content_vector.updates[static_cast<size_t>(c)];
      shrink.data_ptr<float>()[c] =
          seen == 0 ? 0.0f : static_cast<float>(seen / (seen + config_.model.hybrid_shrinkage));
    }
    // A content never updated must still get a first gradient: its row is zero, so that the weight
    // may be small but not zero.
    parts.push_back(t.content_vector *
                    OnDevice(at::clamp_min(shrink, 1.0 / (1.0 + config_.model.hybrid_shrinkage))));
  }
  if (arm_.free_content) parts.push_back(t.content_vector);
  const auto count = static_cast<int64_t>(parts.size());
  at::Tensor all = at::cat(parts, 1);
  if (hybrid_ && step != kNoDropout && config_.model.hybrid_suffix_dropout > 0) {
    all = (all.view({n, count, modal_}) * OnDevice(SuffixMask(in, count, step)))
              .view({n, count * modal_});
  }
  return t.z + Apply(fusion_out_, at::silu(Apply(fusion_in_, all)));
}

// b of every unique item: its ID embedding, plus its projected side features where the
// configuration says so.
at::Tensor Ranker::Behaviours(const StepTensors& t) const {
  if (!config_.model.behaviour_features || sizes_.features == 0) return t.item;
  std::vector<at::Tensor> features;
  for (int64_t f = 0; f < sizes_.features; ++f) {
    features.push_back(Gather(t.feature, t.features_of_item[f]));
  }
  return t.item + Apply(behaviour_, at::cat(features, 1));
}

at::Tensor Ranker::Attend(const StepInputs& in, const StepTensors& step,
                          const at::Tensor& modal_target, const at::Tensor& modal_history,
                          const at::Tensor& target, const at::Tensor& history) const {
  auto shape = std::make_shared<AttentionShape>();
  shape->modal = arm_.modal_attention ? modal_ : 0;
  shape->behaviour = config_.model.id_dim;
  shape->hidden = config_.model.attention_hidden;
  shape->row_offsets = in.batch.row_offsets;
  shape->history_offsets = in.batch.history_offsets;
  AttentionTensors t;
  t.query = target;
  t.history = history;
  t.query_hidden = Apply(din_query_, target);
  t.history_hidden = Apply(din_history_, history);
  t.product = tensors_[din_product_];
  t.score = tensors_[din_score_];
  if (arm_.modal_attention) {
    t.query_modal = Apply(query_modal_, modal_target);
    t.history_modal = modal_history;
  }
  at::Tensor out =
      staging_ ? PairAttention(step.pairs, arm_.modal_attention, t) : BiTargetAttention(shape, t);
  if (!arm_.modal_attention || arm_.cross_attention) return out;
  // Only ModalTA and BehaviorTA.
  return at::cat({out.slice(1, 0, modal_), out.slice(1, out.size(1) - config_.model.id_dim)}, 1);
}

at::Tensor Ranker::Tiers(const StepInputs& in, const StepTensors& t) const {
  at::NoGradGuard no_grad;
  const at::Tensor z = at::cat({t.z, Zeros({1, modal_})}, 0);
  const at::Tensor target = Gather(z, t.content_of_item.index_select(0, t.item_of_row));
  const at::Tensor history = Gather(z, t.content_of_item.index_select(0, t.item_of_position));
  if (staging_) return PairSimilarityTiers(t.pairs, target, history, kSimilarityTiers);
  AttentionShape shape;
  shape.row_offsets = in.batch.row_offsets;
  shape.history_offsets = in.batch.history_offsets;
  at::Tensor tiers = at::empty({in.batch.rows(), kSimilarityTiers});
  SimilarityTiers(shape, modal_, target.data_ptr<float>(), history.data_ptr<float>(),
                  kSimilarityTiers, tiers.data_ptr<float>());
  return tiers;
}

Ranker::Logits Ranker::Forward(const StepInputs& in, const StepTensors& t, int64_t step) const {
  const int64_t n = in.batch.rows();
  const at::Tensor user = Gather(t.user, t.user_of_row);
  const at::Tensor behaviours = Behaviours(t);
  at::Tensor target = Gather(behaviours, t.item_of_row);
  if (step != kNoDropout && config_.model.id_dropout > 0) {
    at::Tensor keep = at::ones({n, 1});
    for (int64_t i = 0; i < n; ++i) {
      Random random(
          static_cast<uint64_t>(config_.seed) ^ kIdStream,
          MixTwo(static_cast<uint64_t>(step),
                 in.item.keys[static_cast<size_t>(in.item_of_row[static_cast<size_t>(i)])]));
      if (random.Uniform() < config_.model.id_dropout) keep.data_ptr<float>()[i] = 0.0f;
    }
    target = target * OnDevice(keep);
  }
  const at::Tensor history = Gather(behaviours, t.item_of_position);

  at::Tensor modal_target, modal_history;
  std::vector<at::Tensor> x;
  if (arm_.content) {
    // One more row of zeros: items without a vector.
    const at::Tensor aligned = at::cat({Align(in, t, step), Zeros({1, modal_})}, 0);
    modal_target = Gather(aligned, t.content_of_item.index_select(0, t.item_of_row));
    if (arm_.modal_attention)
      modal_history = Gather(aligned, t.content_of_item.index_select(0, t.item_of_position));
  }
  x.push_back(Attend(in, t, modal_target, modal_history, target, history));
  x.insert(x.end(), {user, target, user * target});
  if (arm_.content) x.insert(x.end(), {modal_target, Apply(user_modal_, user) * modal_target});
  if (arm_.codes_in_dnn) {
    const auto contents = static_cast<int64_t>(in.content_keys.size());
    const at::Tensor of_row = t.content_of_item.index_select(0, t.item_of_row);
    const std::vector<at::Tensor> none(static_cast<size_t>(config_.codebook.levels + prefixes_),
                                       Zeros({0, modal_}));
    for (const at::Tensor& rows : contents == 0 ? none : CodeRows(t)) {
      x.push_back(Gather(at::cat({rows, Zeros({1, modal_})}, 0), of_row));
    }
  }
  if (tiers_) x.push_back(Tiers(in, t));
  for (int64_t f = 0; f < sizes_.features; ++f) {
    x.push_back(Gather(t.feature, t.features_of_item[f].index_select(0, t.item_of_row)));
  }
  for (int64_t f = 0; f < sizes_.context; ++f) {
    x.push_back(Gather(t.feature, t.context_of_row[f]));
  }
  x.push_back(t.numerics);
  const at::Tensor shared = Stack(dnn_, at::cat(x, 1), false);
  return {Stack(ctr_tower_, shared, true).squeeze(1), Stack(cvr_tower_, shared, true).squeeze(1)};
}

void Ranker::OnGradient(std::function<void(size_t parameter)> ready) {
  for (size_t p = 0; p < tensors_.size(); ++p) {
    torch::autograd::impl::set_post_acc_grad_hooks(
        tensors_[p], std::make_unique<ReadyHook>([ready, p] { ready(p); }));
  }
}

RankerLosses Ranker::Learn(const StepInputs& in, int64_t step, RowGradients* grads) {
  *grads = {};
  dense_.ZeroGradients();
  if (in.batch.rows() == 0) return {};
  const StepTensors t = TensorsOf(in, true);
  const Logits logits = Forward(in, t, step);
  const at::Tensor& clicks = t.clicks;
  const at::Tensor conversions = t.conversions * clicks;
  const auto global_rows = static_cast<double>(in.batch.global_rows);
  const at::Tensor ctr =
      at::binary_cross_entropy_with_logits(logits.ctr, clicks, {}, {}, at::Reduction::Sum) /
      global_rows;
  const at::Tensor ctcvr = CtcvrLoss(logits.ctr, logits.cvr, conversions) / global_rows;
  (ctr + config_.train.conversion_loss_weight * ctcvr).backward();
  TakeGradients(t, grads);
  return {ctr.item<double>(), ctcvr.item<double>()};
}

void Ranker::Predict(const StepInputs& in, std::vector<float>* p_ctr, std::vector<float>* p_ctcvr) {
  at::NoGradGuard no_grad;
  const auto n = static_cast<size_t>(in.batch.rows());
  p_ctr->resize(n);
  p_ctcvr->resize(n);
  if (n == 0) return;
  const Logits logits = Forward(in, TensorsOf(in, false), kNoDropout);
  const at::Tensor ctr = at::sigmoid(logits.ctr);
  View(*p_ctr, {in.batch.rows()}).copy_(ctr);
  View(*p_ctcvr, {in.batch.rows()}).copy_(ctr * at::sigmoid(logits.cvr));
}

at::Tensor Ranker::Aligned(const StepInputs& in) {
  at::NoGradGuard no_grad;
  return Align(in, TensorsOf(in, false), kNoDropout);
}

}  // namespace savior
