// The SaviorRec ranker (Figure 2, right): MBA block, bi-directional target attention, DNN, pCTR and
// pCVR.
//
//   z~   = z + FusionMLP([A_1[c_1]; ...; A_L[c_L]])     all A = 0 at the start: z~ = z bit for bit
//                        and with model.prefix_ngrams [...; P[c_1 c_2]; ...; P[c_1 ... c_L]], ours
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
#include "worker/device_staging.h"
#include "worker/model/attention_kernel.h"
#include "worker/model/pair_attention.h"
#include "worker/model/step_tensors.h"
#include "worker/step_inputs.h"

namespace savior {

// Gradients of the rows pulled, in the order of the Lookup's keys; empty where the table is not
// used.
struct RowGradients {
  std::vector<float> user, item, feature, align, content_vector, prefix;
};

// Sums of BCE over the rows of the worker's slice, divided by the rows of the global batch: added
// up over the workers they are the means of the global batch, as are gradients.
struct RankerLosses {
  double ctr = 0;
  double ctcvr = 0;
};

// Single-threaded. Dense weights live in a DenseWeights that the caller commits and allreduces.
//
// On the CPU it computes on the caller's arrays and with the fused attention. On a device (the
// device path) all of a step's arrays are copied there in one transfer, the attention is
// PairAttention, the weights and their Adam state stay there, and row gradients come back in one
// transfer. Dropouts are drawn on the host on both paths: they are functions of keys that the
// device never sees.
class Ranker {
 public:
  // Sizes of the log that shape the first layer.
  struct Sizes {
    int64_t features = 0, context = 0, numerics = 0;
  };
  struct Placement {
    at::Device device = at::kCPU;
    bool device_path = false;  // on the CPU, too: for tests
  };
  Ranker(const Config& config, const Sizes& sizes);
  // Throws c10::Error if the device has no memory left.
  Ranker(const Config& config, const Sizes& sizes, const Placement& placement);

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

  // z~ of the step's contents, [C, dim], on the device (for tests and export).
  at::Tensor Aligned(const StepInputs& in);

 private:
  struct Layer {
    size_t weight = 0, bias = 0;
    bool has_bias = false;
  };
  struct Logits {
    at::Tensor ctr, cvr;  // [N]
  };

  Layer AddLayer(const std::string& name, int64_t in, int64_t out, bool bias);
  void AddTargetLayers(const Sizes& sizes);
  void WrapParameters(const Placement& placement);
  at::Tensor Apply(const Layer& layer, const at::Tensor& x) const;
  at::Tensor Stack(const std::vector<Layer>& layers, at::Tensor x, bool last_linear) const;

  StepTensors TensorsOf(const StepInputs& in, bool learn) const;
  void TakeGradients(const StepTensors& t, RowGradients* grads) const;
  at::Tensor OnDevice(at::Tensor host) const;
  at::Tensor Zeros(at::IntArrayRef shape) const;
  // Rows of the codes of the step's contents, level by level, then those of their prefixes:
  // [C, dim] each.
  std::vector<at::Tensor> CodeRows(const StepTensors& t) const;
  at::Tensor SuffixMask(const StepInputs& in, int64_t parts, int64_t step) const;
  at::Tensor Align(const StepInputs& in, const StepTensors& t, int64_t step) const;
  at::Tensor Behaviours(const StepTensors& t) const;
  at::Tensor Attend(const StepInputs& in, const StepTensors& t, const at::Tensor& modal_target,
                    const at::Tensor& modal_history, const at::Tensor& target,
                    const at::Tensor& history) const;
  at::Tensor Tiers(const StepInputs& in, const StepTensors& t) const;
  Logits Forward(const StepInputs& in, const StepTensors& t, int64_t step) const;

  const Config config_;
  const Arm arm_;
  const Sizes sizes_;
  const int64_t modal_;  // dim of z
  const int64_t prefixes_;
  const bool hybrid_;
  const bool tiers_;
  DenseWeights dense_;
  const at::Device device_;
  std::unique_ptr<DeviceStaging> staging_;  // null: the CPU's own path
  std::vector<at::Tensor> tensors_;         // views of dense_, one per parameter
  Layer fusion_in_, fusion_out_, query_modal_, user_modal_, din_query_, din_history_, behaviour_;
  size_t din_product_ = 0, din_score_ = 0;
  std::vector<Layer> dnn_, ctr_tower_, cvr_tower_;
};

}  // namespace savior
