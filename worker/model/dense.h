// Dense layers in plain C++, for inference: what LibTorch trained, anybody can evaluate.
//
// A row's result never depends on the rows evaluated with it, on the batch size or on the
// instruction set (no fused multiply-add, fixed order of additions): an item encoded alone gets the
// very bits that it got among a million.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/random.h"
#include "common/status.h"
#include "common/tensor_file.h"

namespace savior {

// y [outputs] += x [inputs] W [inputs, outputs].
void AddProduct(std::span<const float> x, std::span<const float> w, std::span<float> y);

// Scales x to unit length; zeros stay zeros.
void Normalise(std::span<float> x);

// y = silu(x W1 + b1) W2 + b2.
struct Mlp {
  int inputs = 0;
  int hidden = 0;
  int outputs = 0;
  std::vector<float> w1;  // [inputs, hidden]
  std::vector<float> b1;  // [hidden]
  std::vector<float> w2;  // [hidden, outputs]
  std::vector<float> b2;  // [outputs]
  bool operator==(const Mlp&) const = default;
};

// Initial weights as torch.nn.Linear has them: uniform in +-1/sqrt(fan in).
Mlp RandomMlp(int inputs, int hidden, int outputs, Random* random);

// y [outputs] += mlp(x [inputs]).
void AddMlp(const Mlp& mlp, std::span<const float> x, std::span<float> y);

// As tensors "<prefix>.w1", ...
void SaveMlp(const Mlp& mlp, const std::string& prefix, TensorFile* file);
// kDataLoss: a tensor is missing, of another shape, or not finite (named).
[[nodiscard]] absl::StatusOr<Mlp> LoadMlp(const TensorFile& file, const std::string& prefix,
                                          int inputs, int outputs);

// The data of tensor `name`, which must have `shape` (-1: any size in [1, 2^20]) and finite values;
// kDataLoss if not.
[[nodiscard]] absl::StatusOr<HostTensor> TakeTensor(const TensorFile& file, const std::string& name,
                                                    const std::vector<int64_t>& shape);

// kDataLoss unless the file's metadata says it is a `what` ("savior.encoder") of `version`.
[[nodiscard]] absl::Status CheckKindOfFile(const TensorFile& file, const std::string& what,
                                           const std::string& version);

}  // namespace savior
