#include "worker/model/codebook.h"

#include <absl/strings/str_cat.h>
#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "worker/model/codebook_weights.h"
#include "worker/model/kmeans.h"

namespace savior {
namespace {

constexpr char kWhat[] = "savior.codebook";
constexpr char kVersion[] = "1";
constexpr int kMaxLevels = 8;
constexpr int kMinCodes = 2;
constexpr int kMaxCodes = 4096;

// x [n, inputs] -> [n, outputs].
std::vector<float> Apply(const Projection& projection, std::span<const float> x) {
  const auto inputs = static_cast<size_t>(projection.mlp.inputs);
  const auto outputs = static_cast<size_t>(projection.mlp.outputs);
  std::vector<float> y(x.size() / inputs * outputs);
  for (size_t i = 0; i * inputs < x.size(); ++i) {
    const std::span<const float> from = x.subspan(i * inputs, inputs);
    const std::span<float> to = std::span(y).subspan(i * outputs, outputs);
    AddProduct(from, projection.skip, to);
    AddMlp(projection.mlp, from, to);
  }
  return y;
}

class ResidualCodebook final : public Codebook {
 public:
  explicit ResidualCodebook(CodebookWeights weights) : weights_(std::move(weights)) {
    const size_t size = static_cast<size_t>(weights_.codes) * static_cast<size_t>(weights_.latent);
    for (size_t level = 0; level < static_cast<size_t>(weights_.levels); ++level) {
      search_.emplace_back(std::span(weights_.embeddings).subspan(level * size, size),
                           weights_.latent);
    }
  }

  int levels() const override { return weights_.levels; }
  int codes() const override { return weights_.codes; }
  int dim() const override { return weights_.dim; }
  int latent() const override { return weights_.latent; }
  std::span<const float> embeddings() const override { return weights_.embeddings; }

  std::vector<float> Latents(std::span<const float> z) const override {
    return savior::Latents(weights_, z);
  }

  std::unique_ptr<Codebook> WithEmbeddings(std::vector<float> embeddings) const override {
    CHECK_EQ(embeddings.size(), weights_.embeddings.size());
    CodebookWeights weights = weights_;
    weights.embeddings = std::move(embeddings);
    return MakeCodebook(std::move(weights));
  }

  std::vector<int32_t> Quantise(std::span<const float> z) const override {
    CHECK_EQ(z.size() % static_cast<size_t>(weights_.dim), 0u);
    const auto latent = static_cast<size_t>(weights_.latent);
    std::vector<float> rest = Latents(z);
    const size_t n = rest.size() / latent;
    std::vector<int32_t> codes(n * search_.size());
    for (size_t i = 0; i < n; ++i) {
      QuantiseResidual(search_, std::span(rest).subspan(i * latent, latent),
                       std::span(codes).subspan(i * search_.size(), search_.size()));
    }
    return codes;
  }

  std::vector<float> Decode(std::span<const int32_t> codes) const override {
    CHECK_EQ(codes.size() % search_.size(), 0u);
    const auto latent = static_cast<size_t>(weights_.latent);
    std::vector<float> sums(codes.size() / search_.size() * latent);
    for (size_t i = 0; i < codes.size(); ++i) {
      CHECK(codes[i] >= 0 && codes[i] < weights_.codes)
          << "code " << codes[i] << " of " << weights_.codes;
      const std::span<const float> code = search_[i % search_.size()].code(codes[i]);
      for (size_t d = 0; d < latent; ++d) sums[i / search_.size() * latent + d] += code[d];
    }
    return weights_.decoder ? Apply(*weights_.decoder, sums) : sums;
  }

  TensorFile Save() const override {
    TensorFile file;
    file.metadata = {{"what", kWhat}, {"version", kVersion}};
    file.tensors["embeddings"] = {{weights_.levels, weights_.codes, weights_.latent},
                                  weights_.embeddings};
    if (weights_.encoder) {
      file.tensors["encoder.skip"] = {{weights_.dim, weights_.latent}, weights_.encoder->skip};
      SaveMlp(weights_.encoder->mlp, "encoder", &file);
      file.tensors["decoder.skip"] = {{weights_.latent, weights_.dim}, weights_.decoder->skip};
      SaveMlp(weights_.decoder->mlp, "decoder", &file);
    }
    return file;
  }

 private:
  const CodebookWeights weights_;
  std::vector<CodeSearch> search_;  // [levels]
};

absl::StatusOr<Projection> LoadProjection(const TensorFile& file, const std::string& name,
                                          int inputs, int outputs) {
  Projection projection;
  SAVIOR_ASSIGN_OR_RETURN(HostTensor skip, TakeTensor(file, name + ".skip", {inputs, outputs}));
  projection.skip = std::move(skip.data);
  SAVIOR_ASSIGN_OR_RETURN(projection.mlp, LoadMlp(file, name, inputs, outputs));
  return projection;
}

absl::StatusOr<CodebookWeights> LoadWeights(const TensorFile& file) {
  SAVIOR_RETURN_IF_ERROR(CheckKindOfFile(file, kWhat, kVersion));
  SAVIOR_ASSIGN_OR_RETURN(HostTensor embeddings, TakeTensor(file, "embeddings", {-1, -1, -1}));
  CodebookWeights weights;
  if (embeddings.shape[0] > kMaxLevels || embeddings.shape[1] < kMinCodes ||
      embeddings.shape[1] > kMaxCodes) {
    return absl::DataLossError(absl::StrCat("codebook of ", embeddings.shape[0], " levels of ",
                                            embeddings.shape[1], " codes: out of bounds"));
  }
  weights.levels = static_cast<int>(embeddings.shape[0]);
  weights.codes = static_cast<int>(embeddings.shape[1]);
  weights.latent = static_cast<int>(embeddings.shape[2]);
  weights.dim = weights.latent;
  weights.embeddings = std::move(embeddings.data);
  if (file.tensors.contains("encoder.skip")) {
    SAVIOR_ASSIGN_OR_RETURN(const HostTensor skip,
                            TakeTensor(file, "encoder.skip", {-1, weights.latent}));
    weights.dim = static_cast<int>(skip.shape[0]);
    SAVIOR_ASSIGN_OR_RETURN(weights.encoder,
                            LoadProjection(file, "encoder", weights.dim, weights.latent));
    SAVIOR_ASSIGN_OR_RETURN(weights.decoder,
                            LoadProjection(file, "decoder", weights.latent, weights.dim));
  }
  return weights;
}

double CollisionRate(std::span<const int32_t> codes, size_t levels) {
  std::map<std::vector<int32_t>, int64_t> owners;
  for (size_t i = 0; i < codes.size(); i += levels) {
    ++owners[std::vector<int32_t>(codes.begin() + static_cast<std::ptrdiff_t>(i),
                                  codes.begin() + static_cast<std::ptrdiff_t>(i + levels))];
  }
  const size_t rows = codes.size() / levels;
  int64_t shared = 0;
  for (const auto& [key, count] : owners) shared += count > 1 ? count : 0;
  return static_cast<double>(shared) / static_cast<double>(rows);
}

}  // namespace

std::unique_ptr<Codebook> MakeCodebook(CodebookWeights weights) {
  return std::make_unique<ResidualCodebook>(std::move(weights));
}

std::vector<float> Latents(const CodebookWeights& weights, std::span<const float> z) {
  return weights.encoder ? Apply(*weights.encoder, z) : std::vector<float>(z.begin(), z.end());
}

absl::StatusOr<std::unique_ptr<Codebook>> LoadCodebook(const TensorFile& file) {
  SAVIOR_ASSIGN_OR_RETURN(CodebookWeights weights, LoadWeights(file));
  return MakeCodebook(std::move(weights));
}

CodebookWeights WeightsOf(const Codebook& codebook) { return LoadWeights(codebook.Save()).value(); }

CodebookFigures::Level MeasureLevel(std::span<const int32_t> codes, size_t level, size_t levels,
                                    int num_codes) {
  std::vector<double> histogram(static_cast<size_t>(num_codes));
  for (size_t i = level; i < codes.size(); i += levels) ++histogram[static_cast<size_t>(codes[i])];
  return UseOf(histogram);
}

CodebookFigures::Level UseOf(std::span<const double> contents) {
  const double all = std::accumulate(contents.begin(), contents.end(), 0.0);
  double entropy = 0.0;
  CodebookFigures::Level result;
  for (const double count : contents) {
    if (count <= 0) {
      ++result.dead;
      continue;
    }
    const double share = count / all;
    entropy -= share * std::log(share);
    result.largest_share = std::max(result.largest_share, share);
  }
  result.perplexity = std::exp(entropy);
  return result;
}

CodebookFigures Measure(const Codebook& codebook, std::span<const float> z) {
  CHECK_GT(codebook.levels(), 0);
  CodebookFigures figures;
  figures.levels.resize(static_cast<size_t>(codebook.levels()));
  if (z.empty()) return figures;
  const std::vector<int32_t> codes = codebook.Quantise(z);
  const std::vector<float> decoded = codebook.Decode(codes);
  double error = 0.0;
  for (size_t i = 0; i < z.size(); ++i) {
    const double difference = static_cast<double>(z[i]) - decoded[i];
    error += difference * difference;
  }
  figures.rq_mse = error * codebook.dim() / static_cast<double>(z.size());
  const size_t levels = figures.levels.size();
  for (size_t l = 0; l < levels; ++l)
    figures.levels[l] = MeasureLevel(codes, l, levels, codebook.codes());
  figures.collision_rate = CollisionRate(codes, levels);
  return figures;
}

}  // namespace savior
