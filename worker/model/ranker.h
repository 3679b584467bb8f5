// The SaviorRec ranker (Figure 2, right): MBA block, bi-directional target attention, DNN, pCTR and
// pCVR.
//
//   z~   = z + FusionMLP([A_1[c_1]; ...; A_L[c_L]])     all A = 0 at the start: z~ = z bit for bit
//   attn = [ModalTA; Modal2BehavTA; Behav2ModalTA; BehaviorTA]
//   y    = towers(DNN([attn; u; b_t; u*b_t; z~_t; Wu*z~_t; SimTier; features; numerics]))
//   pCTR = sigmoid(y_1), pCVR = sigmoid(y_2), pCTCVR = pCTR * pCVR      (ESMM, Ma et al. 2018)
//   loss = BCE(click, pCTR) + weight * BCE(click * conversion, pCTCVR), both over all impressions
//
// The DNN, SimTier, the hybrid alignment and everything about pCVR are ours (docs/model.md says
// which part is whose).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "common/config.h"
#include "worker/arm.h"
#include "worker/dense_weights.h"
#include "worker/step_inputs.h"

namespace savior {

inline constexpr int64_t kSimilarityTiers = 16;

// Gradients of the rows pulled, in the order of the Lookup's keys; empty where the table is not
// used.
struct RowGradients {
  std::vector<float> user, item, feature, align, content_vector;
};

// Sums of BCE over the rows of the worker's slice, divided by the rows of the global batch: added
// up over the workers they are the means of the global batch, as are gradients.
struct RankerLosses {
  double ctr = 0;
  double ctcvr = 0;
};

// Single-threaded. Dense weights live in a DenseWeights that the caller commits and allreduces.
class Ranker {
 public:
  // Sizes of the log that shape the first layer.
  struct Sizes {
    int64_t features = 0, context = 0, numerics = 0;
  };
  Ranker(const Config& config, const Sizes& sizes);

  DenseWeights& dense() { return dense_; }

  // Forward and backward; dense gradients go to dense().gradients(), overwritten. `step` seeds the
  // dropouts. A slice without rows: no losses, zero dense gradients, empty row gradients.
  RankerLosses Learn(const StepInputs& in, int64_t step, RowGradients* grads);

  // Called by Learn as soon as the gradient of a parameter (its index in dense()) is complete, on
  // the thread that runs the backward pass; not for a parameter that gets none. Set once, before
  // the first Learn.
  void OnGradient(std::function<void(size_t parameter)> ready);

  // pCTR and pCTCVR of every row, [N].
  void Predict(const StepInputs& in, std::vector<float>* p_ctr, std::vector<float>* p_ctcvr);

  // z~ of the step's contents, [C, dim] (for tests and export).
  at::Tensor Aligned(const StepInputs& in);

 private:
  struct Layer {
    size_t weight = 0, bias = 0;
    bool has_bias = false;
  };
  // Rows of a step as tensors; leaves of the graph when learning.
  struct Rows {
    at::Tensor user, item, feature, align, content_vector, z;
  };
  struct Logits {
    at::Tensor ctr, cvr;  // [N]
  };

  Layer AddLayer(const std::string& name, int64_t in, int64_t out, bool bias);
  void AddTargetLayers(const Sizes& sizes);
  at::Tensor Apply(const Layer& layer, const at::Tensor& x) const;
  at::Tensor Stack(const std::vector<Layer>& layers, at::Tensor x, bool last_linear) const;

  Rows MakeRows(const StepInputs& in, bool learn) const;
  at::Tensor SuffixMask(const StepInputs& in, int64_t parts, int64_t step) const;
  at::Tensor Align(const StepInputs& in, const Rows& rows, int64_t step) const;
  at::Tensor Behaviours(const StepInputs& in, const Rows& rows) const;
  at::Tensor Attend(const StepInputs& in, const at::Tensor& modal_target,
                    const at::Tensor& modal_history, const at::Tensor& target,
                    const at::Tensor& history) const;
  at::Tensor Tiers(const StepInputs& in) const;
  Logits Forward(const StepInputs& in, const Rows& rows, int64_t step) const;

  const Config config_;
  const Arm arm_;
  const Sizes sizes_;
  const int64_t modal_;  // dim of z
  const bool hybrid_;
  const bool tiers_;
  DenseWeights dense_;
  std::vector<at::Tensor> tensors_;  // views of dense_, one per parameter
  Layer fusion_in_, fusion_out_, query_modal_, user_modal_, din_query_, din_history_, behaviour_;
  size_t din_product_ = 0, din_score_ = 0;
  std::vector<Layer> dnn_, ctr_tower_, cvr_tower_;
};

}  // namespace savior
