#include "worker/model/encoder.h"

#include <glog/logging.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/half.h"
#include "worker/model/encoder_weights.h"

namespace savior {
namespace {

constexpr char kWhat[] = "savior.encoder";
constexpr char kVersion[] = "1";

class ResidualEncoder final : public Encoder {
 public:
  explicit ResidualEncoder(EncoderWeights weights) : weights_(std::move(weights)) {}

  int input_dim() const override { return weights_.input_dim; }
  int dim() const override { return weights_.dim; }

  std::vector<float> Encode(std::span<const float> x) const override {
    const auto inputs = static_cast<size_t>(weights_.input_dim);
    const auto outputs = static_cast<size_t>(weights_.dim);
    CHECK_EQ(x.size() % inputs, 0u);
    const size_t n = x.size() / inputs;
    std::vector<float> z(n * outputs);
    for (size_t i = 0; i < n; ++i) {
      EncodeRow(x.subspan(i * inputs, inputs), std::span(z).subspan(i * outputs, outputs));
    }
    return z;
  }

  TensorFile Save() const override {
    TensorFile file;
    file.metadata = {
        {"what", kWhat}, {"version", kVersion}, {"kind", weights_.mlp ? "swing_residual" : "pca"}};
    file.tensors["mean"] = {{weights_.input_dim}, weights_.mean};
    file.tensors["basis"] = {{weights_.input_dim, weights_.dim}, weights_.basis};
    if (weights_.mlp) {
      SaveMlp(*weights_.mlp, "mlp", &file);
      file.tensors["alpha"] = {{1}, {weights_.alpha}};
    }
    return file;
  }

 private:
  // x [input_dim] -> z [dim], zeros on entry.
  void EncodeRow(std::span<const float> x, std::span<float> z) const {
    if (std::ranges::all_of(x, [](float v) { return v == 0.0f; })) return;
    std::vector<float> centred(x.begin(), x.end());
    for (size_t d = 0; d < centred.size(); ++d) centred[d] -= weights_.mean[d];
    AddProduct(centred, weights_.basis, z);
    Normalise(z);
    if (!weights_.mlp) return;
    Normalise(centred);
    for (float& v : centred) v *= kInputScale;
    std::vector<float> learned(z.size());
    AddMlp(*weights_.mlp, centred, learned);
    Normalise(learned);
    for (size_t d = 0; d < z.size(); ++d) z[d] += weights_.alpha * learned[d];
    Normalise(z);
  }

  const EncoderWeights weights_;
};

// x [dim of the modality] of one content, unit length.
void AppendModality(std::span<const uint16_t> halves, std::vector<float>* x) {
  const size_t begin = x->size();
  for (const uint16_t half : halves) x->push_back(FloatOfHalf(half));
  Normalise(std::span(*x).subspan(begin));
}

}  // namespace

std::unique_ptr<Encoder> MakeEncoder(EncoderWeights weights) {
  return std::make_unique<ResidualEncoder>(std::move(weights));
}

std::vector<float> EncoderInputs(const TrainingLog& log, std::span<const int32_t> contents) {
  std::vector<float> x;
  for (const int32_t content : contents) {
    for (size_t m = 0; m < log.schema().modalities.size(); ++m) {
      const auto dim = static_cast<size_t>(log.schema().modalities[m].dim);
      AppendModality(log.vectors(m).subspan(static_cast<size_t>(content) * dim, dim), &x);
    }
  }
  return x;
}

std::vector<float> EncodeContents(const TrainingLog& log, std::span<const int32_t> contents,
                                  const Encoder& encoder) {
  constexpr size_t kRows = 1024;  // bounds the memory for inputs
  std::vector<float> z;
  z.reserve(contents.size() * static_cast<size_t>(encoder.dim()));
  for (size_t begin = 0; begin < contents.size(); begin += kRows) {
    const auto some = contents.subspan(begin, std::min(kRows, contents.size() - begin));
    const std::vector<float> part = encoder.Encode(EncoderInputs(log, some));
    z.insert(z.end(), part.begin(), part.end());
  }
  return z;
}

std::vector<float> EncodeAll(const TrainingLog& log, const Encoder& encoder) {
  std::vector<int32_t> contents(static_cast<size_t>(log.num_contents()));
  std::iota(contents.begin(), contents.end(), 0);
  return EncodeContents(log, contents, encoder);
}

absl::StatusOr<EncoderWeights> LoadEncoderWeights(const TensorFile& file) {
  SAVIOR_RETURN_IF_ERROR(CheckKindOfFile(file, kWhat, kVersion));
  EncoderWeights weights;
  SAVIOR_ASSIGN_OR_RETURN(HostTensor mean, TakeTensor(file, "mean", {-1}));
  SAVIOR_ASSIGN_OR_RETURN(HostTensor basis, TakeTensor(file, "basis", {mean.shape[0], -1}));
  weights.input_dim = static_cast<int>(mean.shape[0]);
  weights.dim = static_cast<int>(basis.shape[1]);
  weights.mean = std::move(mean.data);
  weights.basis = std::move(basis.data);
  const auto kind = file.metadata.find("kind");
  if (kind == file.metadata.end() || (kind->second != "pca" && kind->second != "swing_residual")) {
    return absl::DataLossError("encoder of no known kind");
  }
  if (kind->second == "swing_residual") {
    SAVIOR_ASSIGN_OR_RETURN(weights.mlp, LoadMlp(file, "mlp", weights.input_dim, weights.dim));
    SAVIOR_ASSIGN_OR_RETURN(const HostTensor alpha, TakeTensor(file, "alpha", {1}));
    weights.alpha = alpha.data[0];
  }
  return weights;
}

absl::StatusOr<std::unique_ptr<Encoder>> LoadEncoder(const TensorFile& file) {
  SAVIOR_ASSIGN_OR_RETURN(EncoderWeights weights, LoadEncoderWeights(file));
  return MakeEncoder(std::move(weights));
}

}  // namespace savior
