#include "worker/model/codebook.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "common/random.h"
#include "worker/model/dense.h"

namespace savior {
namespace {

constexpr int kDim = 16;

// Unit vectors around 20 directions.
std::vector<float> ClusteredVectors(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> centres(20 * kDim);
  for (float& v : centres) v = static_cast<float>(random.Normal());
  std::vector<float> z(n * kDim);
  for (size_t i = 0; i < n; ++i) {
    const size_t centre = random.Below(20);
    for (size_t d = 0; d < kDim; ++d)
      z[i * kDim + d] = centres[centre * kDim + d] + static_cast<float>(0.5 * random.Normal());
    Normalise(std::span(z).subspan(i * kDim, kDim));
  }
  return z;
}

CodebookOptions SmallOptions() {
  return {.levels = 3,
          .codes = 16,
          .latent = 8,
          .hidden = 32,
          .kmeans_iterations = 20,
          .finetune_steps = 60,
          .batch = 128,
          .seed = 5};
}

std::unique_ptr<Codebook> Train(std::span<const float> z, const CodebookOptions& options,
                                std::span<const ContentPair> pairs = {},
                                std::span<const float> weights = {}) {
  auto codebook = TrainCodebook(z, kDim, weights, pairs, options);
  EXPECT_TRUE(codebook.ok()) << codebook.status();
  return codebook.ok() ? std::move(*codebook) : nullptr;
}

std::vector<ContentPair> NextPairs(int32_t n) {
  std::vector<ContentPair> pairs;
  for (int32_t i = 0; i < n; ++i) pairs.push_back({i, (i + 1) % n, 1.0f});
  return pairs;
}

TEST(Codebook, LosesLessWithEveryLevel) {
  const std::vector<float> z = ClusteredVectors(800, 1);
  for (const int steps : {0, 60}) {
    double before = 1.0;  // |z|^2: what the empty codebook loses
    for (int levels = 1; levels <= 4; ++levels) {
      CodebookOptions options = SmallOptions();
      options.levels = levels;
      options.finetune_steps = steps;
      options.latent = 0;
      const double mse = Measure(*Train(z, options), z).rq_mse;
      EXPECT_LT(mse, before) << levels << " levels, " << steps << " steps";
      before = mse;
    }
  }
}

TEST(Codebook, BeatsCodesOfRandomContents) {
  const std::vector<float> z = ClusteredVectors(800, 2);
  const auto codebook = Train(z, SmallOptions());
  std::vector<int32_t> codes = codebook->Quantise(z);
  std::rotate(codes.begin(), codes.begin() + 3 * 37, codes.end());
  const std::vector<float> decoded = codebook->Decode(codes);
  double shuffled = 0.0;
  for (size_t i = 0; i < z.size(); ++i)
    shuffled += (double{z[i]} - decoded[i]) * (double{z[i]} - decoded[i]) / 800;
  EXPECT_LT(Measure(*codebook, z).rq_mse, 0.3 * shuffled);
}

TEST(Codebook, FineTuningBeatsItsStart) {
  const std::vector<float> z = ClusteredVectors(800, 3);
  CodebookOptions options = SmallOptions();
  options.contrastive_weight = 0.0;
  options.finetune_steps = 1;
  options.lr = 1e-9;
  const double start = Measure(*Train(z, options), z).rq_mse;
  options.finetune_steps = 200;
  options.lr = 3e-3;
  EXPECT_LT(Measure(*Train(z, options), z).rq_mse, start);
}

TEST(Codebook, WithoutFineTuningIsResidualKMeansOnZ) {
  CodebookOptions options = SmallOptions();
  options.finetune_steps = 0;
  options.latent = 999;  // has no say
  const std::vector<float> z = ClusteredVectors(300, 4);
  const auto codebook = Train(z, options);
  const std::vector<int32_t> codes = codebook->Quantise(z);
  const std::vector<float> decoded = codebook->Decode(codes);
  const TensorFile file = codebook->Save();
  const std::vector<float>& embeddings = file.tensors.at("embeddings").data;
  for (size_t i = 0; i < 300; ++i) {
    for (size_t d = 0; d < kDim; ++d) {
      float sum = 0.0f;
      for (size_t l = 0; l < 3; ++l)
        sum += embeddings[(l * 16 + static_cast<size_t>(codes[i * 3 + l])) * kDim + d];
      EXPECT_FLOAT_EQ(decoded[i * kDim + d], sum);
    }
  }
}

TEST(Codebook, TrainsOnPairsToo) {
  const std::vector<float> z = ClusteredVectors(200, 5);
  CodebookOptions options = SmallOptions();
  options.contrastive_weight = 1.0;
  const std::vector<ContentPair> pairs = NextPairs(200);
  const auto with = Train(z, options, pairs);
  EXPECT_NE(with->Save().tensors, Train(z, options)->Save().tensors);
  options.contrastive_weight = 0.0;
  EXPECT_EQ(Train(z, options, pairs)->Save().tensors, Train(z, options)->Save().tensors);
}

TEST(Codebook, LeansTowardsHeavyContents) {
  const std::vector<float> z = ClusteredVectors(400, 6);
  std::vector<float> weights(400, 0.01f);
  std::fill(weights.begin(), weights.begin() + 20, 1.0f);
  CodebookOptions options = SmallOptions();
  options.levels = 1;
  const std::span<const float> heavy = std::span(z).first(20 * kDim);
  for (const int steps : {0, 60}) {
    options.finetune_steps = steps;
    EXPECT_LT(Measure(*Train(z, options, {}, weights), heavy).rq_mse,
              Measure(*Train(z, options), heavy).rq_mse);
  }
}

TEST(Codebook, KeepsSurplusCodesDeadWhenContentsAreFew) {
  const std::vector<float> z = ClusteredVectors(5, 7);
  for (const int steps : {0, 60}) {
    CodebookOptions options = SmallOptions();
    options.finetune_steps = steps;
    options.latent = 0;
    const CodebookFigures figures = Measure(*Train(z, options), z);
    EXPECT_EQ(figures.levels[0].dead, 11);
    EXPECT_EQ(figures.collision_rate, 0.0);
    EXPECT_LT(figures.rq_mse, 0.01);
  }
}

TEST(Codebook, TakesOneContentAndZeros) {
  const std::vector<float> one = ClusteredVectors(1, 8);
  EXPECT_LT(Measure(*Train(one, SmallOptions()), one).rq_mse, 0.05);
  const std::vector<float> zeros(3 * kDim);
  const auto codebook = Train(zeros, SmallOptions());
  EXPECT_LT(Measure(*codebook, zeros).rq_mse, 1e-3);
}

TEST(Codebook, GivesEqualBitsForEqualInput) {
  const std::vector<float> z = ClusteredVectors(300, 9);
  const std::vector<ContentPair> pairs = NextPairs(300);
  const auto a = Train(z, SmallOptions(), pairs);
  const auto b = Train(z, SmallOptions(), pairs);
  EXPECT_EQ(a->Save().tensors, b->Save().tensors);
  EXPECT_EQ(a->Quantise(z), b->Quantise(z));
}

TEST(Codebook, QuantisesARowAloneAsAmongOthers) {
  const std::vector<float> z = ClusteredVectors(100, 10);
  const auto codebook = Train(z, SmallOptions());
  const std::vector<int32_t> all = codebook->Quantise(z);
  for (size_t i = 0; i < 100; ++i) {
    const std::vector<int32_t> alone = codebook->Quantise(std::span(z).subspan(i * kDim, kDim));
    EXPECT_TRUE(std::ranges::equal(alone, std::span(all).subspan(i * 3, 3)));
    EXPECT_TRUE(std::ranges::all_of(alone, [](int32_t code) { return code >= 0 && code < 16; }));
  }
}

TEST(Codebook, ComesBackFromItsFileWithEqualBits) {
  const std::vector<float> z = ClusteredVectors(200, 11);
  for (const int steps : {0, 20}) {
    CodebookOptions options = SmallOptions();
    options.finetune_steps = steps;
    const auto codebook = Train(z, options);
    const auto loaded = LoadCodebook(codebook->Save());
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ((*loaded)->Quantise(z), codebook->Quantise(z));
    EXPECT_EQ((*loaded)->Decode(codebook->Quantise(z)), codebook->Decode(codebook->Quantise(z)));
    EXPECT_EQ((*loaded)->dim(), kDim);
    EXPECT_EQ((*loaded)->levels(), 3);
    EXPECT_EQ((*loaded)->codes(), 16);
  }
}

TEST(Codebook, RefusesFilesThatItDidNotWrite) {
  CodebookOptions options = SmallOptions();
  options.finetune_steps = 1;
  const TensorFile good = Train(ClusteredVectors(50, 12), options)->Save();
  const std::vector<std::function<void(TensorFile*)>> damages = {
      [](TensorFile* f) { f->metadata.clear(); },
      [](TensorFile* f) { f->metadata["version"] = "0"; },
      [](TensorFile* f) { f->tensors.erase("embeddings"); },
      [](TensorFile* f) { f->tensors.erase("decoder.skip"); },
      [](TensorFile* f) { f->tensors.erase("encoder.b2"); },
      [](TensorFile* f) {
        f->tensors["embeddings"].shape = {48, 8};
      },
      [](TensorFile* f) { f->tensors["embeddings"].data.pop_back(); },
      [](TensorFile* f) {
        f->tensors["embeddings"] = {{9, 2, 8}, std::vector<float>(144)};
      },
      [](TensorFile* f) {
        f->tensors["embeddings"] = {{1, 1, 8}, std::vector<float>(8)};
      },
      [](TensorFile* f) { f->tensors["encoder.skip"].data[3] = HUGE_VALF; },
  };
  for (size_t i = 0; i < damages.size(); ++i) {
    TensorFile file = good;
    damages[i](&file);
    EXPECT_EQ(LoadCodebook(file).status().code(), absl::StatusCode::kDataLoss) << "damage " << i;
  }
}

TEST(Codebook, RefusesWhatItCannotTrainOn) {
  const std::vector<float> z = ClusteredVectors(10, 13);
  const auto code = [&](std::span<const float> rows, const CodebookOptions& options,
                        std::vector<float> weights = {}, std::vector<ContentPair> pairs = {}) {
    return TrainCodebook(rows, kDim, weights, pairs, options).status().code();
  };
  const auto kRefused = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({}, SmallOptions()), kRefused);
  EXPECT_EQ(code(std::span(z).first(17), SmallOptions()), kRefused);
  EXPECT_EQ(code(z, {.levels = 9}), kRefused);
  EXPECT_EQ(code(z, {.codes = 1}), kRefused);
  EXPECT_EQ(code(z, {.latent = 17}), kRefused);
  EXPECT_EQ(code(z, SmallOptions(), {1.0f}), kRefused);
  EXPECT_EQ(code(z, SmallOptions(), std::vector<float>(10, 0.0f)), kRefused);
  EXPECT_EQ(code(z, SmallOptions(), {}, {{0, 10, 1.0f}}), kRefused);
  std::vector<float> bad = z;
  bad[5] = std::nanf("");
  EXPECT_EQ(code(bad, SmallOptions()), kRefused);
}

// Codes are given by the first two numbers of z: a hand-made codebook.
class PlainCodebook : public Codebook {
 public:
  int levels() const override { return 2; }
  int codes() const override { return 4; }
  int dim() const override { return 2; }
  int latent() const override { return 2; }
  std::vector<float> Latents(std::span<const float> z) const override {
    return {z.begin(), z.end()};
  }
  std::span<const float> embeddings() const override { return {}; }
  std::unique_ptr<Codebook> WithEmbeddings(std::vector<float>) const override { return nullptr; }
  std::vector<int32_t> Quantise(std::span<const float> z) const override {
    return {z.begin(), z.end()};
  }
  std::vector<float> Decode(std::span<const int32_t> codes) const override {
    std::vector<float> z(codes.begin(), codes.end());
    for (float& v : z) v += 0.5f;
    return z;
  }
  TensorFile Save() const override { return {}; }
};

TEST(Measure, CountsUse) {
  const CodebookFigures figures =
      Measure(PlainCodebook(), std::vector<float>{0, 1, 0, 1, 1, 1, 2, 3});
  ASSERT_EQ(figures.levels.size(), 2u);
  EXPECT_NEAR(figures.levels[0].perplexity, std::exp(1.5 * std::log(2.0)),
              1e-9);  // shares 1/2, 1/4, 1/4
  EXPECT_EQ(figures.levels[0].dead, 1);
  EXPECT_EQ(figures.levels[0].largest_share, 0.5);
  EXPECT_EQ(figures.levels[1].dead, 2);
  EXPECT_EQ(figures.levels[1].largest_share, 0.75);
  EXPECT_EQ(figures.collision_rate, 0.5);  // (0, 1) twice, of four
  EXPECT_NEAR(figures.rq_mse, 0.5, 1e-9);
}

TEST(Measure, OfNothingIsZero) {
  const CodebookFigures figures = Measure(PlainCodebook(), {});
  EXPECT_EQ(figures.levels.size(), 2u);
  EXPECT_EQ(figures.rq_mse, 0.0);
}

}  // namespace
}  // namespace savior
