#include "worker/model/dense.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <glog/logging.h>

#include <algorithm>
#include <cmath>

#include "common/simd.h"

namespace savior {
namespace {

constexpr int64_t kMaxSize = 1 << 20;

SAVIOR_SIMD void AddProductKernel(const float* __restrict x, int64_t inputs,
                                  const float* __restrict w, int64_t outputs, float* __restrict y) {
  for (int64_t i = 0; i < inputs; ++i) {
    const float scale = x[i];
    const float* __restrict row = w + i * outputs;
    for (int64_t o = 0; o < outputs; ++o) y[o] += scale * row[o];
  }
}

std::vector<float> RandomWeights(int64_t size, int fan_in, Random* random) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(fan_in));
  std::vector<float> weights(static_cast<size_t>(size));
  for (float& w : weights) w = static_cast<float>((2.0 * random->Uniform() - 1.0) * bound);
  return weights;
}

bool ShapeMatches(const std::vector<int64_t>& shape, const std::vector<int64_t>& wanted) {
  return std::ranges::equal(shape, wanted, [](int64_t size, int64_t want) {
    return want < 0 ? size >= 1 && size <= kMaxSize : size == want;
  });
}

}  // namespace

void AddProduct(std::span<const float> x, std::span<const float> w, std::span<float> y) {
  CHECK_EQ(x.size() * y.size(), w.size());
  AddProductKernel(x.data(), static_cast<int64_t>(x.size()), w.data(),
                   static_cast<int64_t>(y.size()), y.data());
}

void Normalise(std::span<float> x) {
  double squares = 0.0;
  for (const float v : x) squares += static_cast<double>(v) * v;
  if (squares <= 0.0) return;
  const double scale = 1.0 / std::sqrt(squares);
  for (float& v : x) v = static_cast<float>(v * scale);
}

Mlp RandomMlp(int inputs, int hidden, int outputs, Random* random) {
  Mlp mlp{.inputs = inputs,
          .hidden = hidden,
          .outputs = outputs,
          .w1 = {},
          .b1 = {},
          .w2 = {},
          .b2 = {}};
  mlp.w1 = RandomWeights(int64_t{inputs} * hidden, inputs, random);
  mlp.b1 = RandomWeights(hidden, inputs, random);
  mlp.w2 = RandomWeights(int64_t{hidden} * outputs, hidden, random);
  mlp.b2 = RandomWeights(outputs, hidden, random);
  return mlp;
}

void AddMlp(const Mlp& mlp, std::span<const float> x, std::span<float> y) {
  std::vector<float> hidden = mlp.b1;
  AddProduct(x, mlp.w1, hidden);
  for (float& h : hidden) h /= 1.0f + std::exp(-h);
  for (size_t o = 0; o < y.size(); ++o) y[o] += mlp.b2[o];
  AddProduct(hidden, mlp.w2, y);
}

void SaveMlp(const Mlp& mlp, const std::string& prefix, TensorFile* file) {
  file->tensors[prefix + ".w1"] = {{mlp.inputs, mlp.hidden}, mlp.w1};
  file->tensors[prefix + ".b1"] = {{mlp.hidden}, mlp.b1};
  file->tensors[prefix + ".w2"] = {{mlp.hidden, mlp.outputs}, mlp.w2};
  file->tensors[prefix + ".b2"] = {{mlp.outputs}, mlp.b2};
}

absl::StatusOr<Mlp> LoadMlp(const TensorFile& file, const std::string& prefix, int inputs,
                            int outputs) {
  SAVIOR_ASSIGN_OR_RETURN(HostTensor w1, TakeTensor(file, prefix + ".w1", {inputs, -1}));
  const int64_t hidden = w1.shape[1];
  SAVIOR_ASSIGN_OR_RETURN(HostTensor b1, TakeTensor(file, prefix + ".b1", {hidden}));
  SAVIOR_ASSIGN_OR_RETURN(HostTensor w2, TakeTensor(file, prefix + ".w2", {hidden, outputs}));
  SAVIOR_ASSIGN_OR_RETURN(HostTensor b2, TakeTensor(file, prefix + ".b2", {outputs}));
  return Mlp{.inputs = inputs,
             .hidden = static_cast<int>(hidden),
             .outputs = outputs,
             .w1 = std::move(w1.data),
             .b1 = std::move(b1.data),
             .w2 = std::move(w2.data),
             .b2 = std::move(b2.data)};
}

absl::StatusOr<HostTensor> TakeTensor(const TensorFile& file, const std::string& name,
                                      const std::vector<int64_t>& shape) {
  const auto found = file.tensors.find(name);
  if (found == file.tensors.end())
    return absl::DataLossError(absl::StrCat("tensor ", name, " is missing"));
  const HostTensor& tensor = found->second;
  if (!ShapeMatches(tensor.shape, shape)) {
    return absl::DataLossError(absl::StrCat("tensor ", name, " has shape [",
                                            absl::StrJoin(tensor.shape, ", "), "], not [",
                                            absl::StrJoin(shape, ", "), "] (-1: any)"));
  }
  uint64_t elements = 1;
  for (const int64_t size : tensor.shape) elements *= static_cast<uint64_t>(size);
  if (tensor.data.size() != elements) {
    return absl::DataLossError(
        absl::StrCat("tensor ", name, " holds ", tensor.data.size(), " values, not ", elements));
  }
  if (!std::ranges::all_of(tensor.data, [](float v) { return std::isfinite(v); })) {
    return absl::DataLossError(absl::StrCat("tensor ", name, " holds a value that is not finite"));
  }
  return tensor;
}

absl::Status CheckKindOfFile(const TensorFile& file, const std::string& what,
                             const std::string& version) {
  const auto entry = [&](const std::string& key) {
    const auto found = file.metadata.find(key);
    return found == file.metadata.end() ? std::string() : found->second;
  };
  if (entry("what") != what) return absl::DataLossError(absl::StrCat("not a ", what, " file"));
  if (entry("version") != version) {
    return absl::DataLossError(
        absl::StrCat(what, " file of version \"", entry("version"), "\", not ", version));
  }
  return absl::OkStatus();
}

}  // namespace savior
