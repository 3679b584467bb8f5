#include "worker/model/encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "common/random.h"
#include "tests/worker/fake_log.h"

namespace savior {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

constexpr int kClusters = 6;
constexpr int kPerCluster = 30;

double Cosine(std::span<const float> z, size_t dim, size_t a, size_t b) {
  double dot = 0.0;
  for (size_t d = 0; d < dim; ++d) dot += double{z[a * dim + d]} * z[b * dim + d];
  return dot;
}

// Contents in six clusters of directions, one item each.
FakeLog ClusteredLog() {
  FakeLog log({{.name = "text", .dim = 12}, {.name = "image", .dim = 4}});
  Random random(11);
  for (int c = 0; c < kClusters * kPerCluster; ++c) {
    std::vector<float> text(12);
    for (float& v : text) v = static_cast<float>(0.3 * random.Normal());
    text[static_cast<size_t>(c / kPerCluster)] += 2.0f;
    std::vector<float> image(4);
    for (float& v : image) v = static_cast<float>(random.Normal());
    log.AddItem(log.AddContent({text, image}), /*listed_at=*/c);
  }
  return log;
}

// Behaviour joins cluster 0 with 1, 2 with 3 and 4 with 5, which the vectors keep apart.
std::vector<ContentPair> CrossPairs() {
  std::vector<ContentPair> pairs;
  Random random(12);
  for (int32_t c = 0; c < kClusters * kPerCluster; ++c) {
    const int32_t partner = (c / kPerCluster) ^ 1;
    const auto target = partner * kPerCluster + static_cast<int32_t>(random.Below(kPerCluster));
    pairs.push_back({c, target, 1.0f});
  }
  return pairs;
}

EncoderOptions SmallOptions() {
  return {.dim = 8, .hidden = 32, .batch = 64, .steps = 60, .seed = 3};
}

std::unique_ptr<Encoder> Train(const TrainingLog& log, std::span<const ContentPair> pairs,
                               const EncoderOptions& options) {
  auto encoder = TrainEncoder(log, pairs, std::numeric_limits<int64_t>::max(), options);
  EXPECT_TRUE(encoder.ok()) << encoder.status();
  return encoder.ok() ? std::move(*encoder) : nullptr;
}

// Mean cosine between clusters that behaviour joins.
double JoinedCosine(const std::vector<float>& z, size_t dim) {
  double sum = 0.0;
  for (size_t i = 0; i < kPerCluster; ++i) {
    for (size_t j = 0; j < kPerCluster; ++j) sum += Cosine(z, dim, i, kPerCluster + j);
  }
  return sum / (kPerCluster * kPerCluster);
}

TEST(Encoder, PullsTogetherWhatBehaviourJoinsAndStaysNearItsAnchor) {
  const FakeLog log = ClusteredLog();
  EncoderOptions options = SmallOptions();
  options.steps = 300;
  options.lr = 3e-3;
  const std::vector<float> trained = EncodeAll(log, *Train(log, CrossPairs(), options));
  options.kind = EncoderKind::kPca;
  const std::vector<float> anchor = EncodeAll(log, *Train(log, CrossPairs(), options));
  EXPECT_GT(JoinedCosine(trained, 8), JoinedCosine(anchor, 8) + 0.2);
  double near = 0.0;
  const size_t n = trained.size() / 8;
  for (size_t i = 0; i < n; ++i) {
    for (size_t d = 0; d < 8; ++d)
      near += double{trained[i * 8 + d]} * anchor[i * 8 + d] / static_cast<double>(n);
  }
  EXPECT_GT(near, 0.6);
  EXPECT_LT(near, 0.999);
}

TEST(Encoder, GivesUnitVectorsAndZerosForZeros) {
  FakeLog log = ClusteredLog();
  const auto blank =
      static_cast<size_t>(log.AddContent({std::vector<float>(12), std::vector<float>(4)}));
  const auto text_only =
      static_cast<size_t>(log.AddContent({std::vector<float>(12, 1.0f), std::vector<float>(4)}));
  log.AddItem(static_cast<int32_t>(blank));
  for (const EncoderKind kind : {EncoderKind::kPca, EncoderKind::kSwingResidual}) {
    EncoderOptions options = SmallOptions();
    options.kind = kind;
    const std::vector<float> z = EncodeAll(log, *Train(log, CrossPairs(), options));
    EXPECT_THAT(std::vector<float>(z.begin() + static_cast<std::ptrdiff_t>(blank * 8),
                                   z.begin() + static_cast<std::ptrdiff_t>(blank * 8 + 8)),
                Each(0.0f));
    EXPECT_NEAR(Cosine(z, 8, text_only, text_only), 1.0, 1e-5);
    for (size_t i = 0; i < blank; ++i) EXPECT_NEAR(Cosine(z, 8, i, i), 1.0, 1e-5);
  }
}

TEST(Encoder, PcaKeepsTheDirectionsOfLargestVariance) {
  FakeLog log({{.name = "text", .dim = 3}});
  // Unit vectors that vary along (1, -1, 0) most, a little along z, not otherwise.
  for (const std::vector<float>& v : std::vector<std::vector<float>>{
           {1, 0, 0}, {0, 1, 0}, {0.7f, 0.7f, 0.1f}, {0.7f, 0.7f, -0.1f}}) {
    log.AddItem(log.AddContent({v}));
  }
  const auto encoder = Train(log, {}, {.kind = EncoderKind::kPca, .dim = 1});
  const std::vector<float> z = EncodeAll(log, *encoder);
  EXPECT_EQ(z[0], 1.0f);  // the sign rule: the first of the largest components is positive
  EXPECT_EQ(z[1], -1.0f);
}

TEST(Encoder, FitsPcaOnContentsListedBeforeTheLimit) {
  FakeLog before = ClusteredLog();
  FakeLog after = ClusteredLog();
  Random random(4);
  for (int i = 0; i < 50; ++i) {
    std::vector<float> odd(12);
    for (float& v : odd) v = static_cast<float>(random.Normal());
    after.AddItem(after.AddContent({odd, {1, 2, 3, 4}}), /*listed_at=*/1000 + i);
  }
  const EncoderOptions options = SmallOptions();
  const auto a = TrainEncoder(before, CrossPairs(), 1000, options);
  const auto b = TrainEncoder(after, CrossPairs(), 1000, options);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ((*a)->Save().tensors, (*b)->Save().tensors);
}

TEST(Encoder, StaysPlainPcaWithoutPairs) {
  const FakeLog log = ClusteredLog();
  EncoderOptions options = SmallOptions();
  const auto residual = Train(log, {}, options);
  options.kind = EncoderKind::kPca;
  EXPECT_EQ(residual->Save().tensors, Train(log, {}, options)->Save().tensors);
  EXPECT_EQ(residual->Save().metadata.at("kind"), "pca");
}

TEST(Encoder, IsTrainedOnFromWhereItIs) {
  const FakeLog log = ClusteredLog();
  EncoderOptions options = SmallOptions();
  const auto start = Train(log, CrossPairs(), options);
  const std::vector<float> before = EncodeAll(log, *start);
  // Behaviour joins other clusters by now: 0 with 2, 1 with 3.
  std::vector<ContentPair> pairs = CrossPairs();
  for (ContentPair& pair : pairs) {
    pair.target = (pair.trigger + 2 * kPerCluster) % (4 * kPerCluster);
  }
  options.lr = 3e-3;
  int64_t steps = 0;
  const auto tuned = TuneEncoder(log, *start, pairs, options, [&] {
    ++steps;
    return absl::OkStatus();
  });
  ASSERT_TRUE(tuned.ok()) << tuned.status();
  EXPECT_EQ(steps, options.steps);
  const std::vector<float> after = EncodeAll(log, **tuned);
  const auto joined = [](const std::vector<float>& z) {
    double sum = 0.0;
    for (size_t i = 0; i < kPerCluster; ++i) sum += Cosine(z, 8, i, 2 * kPerCluster + i);
    return sum / kPerCluster;
  };
  EXPECT_GT(joined(after), joined(before) + 0.05);
  EXPECT_EQ((*tuned)->Save().tensors.at("basis"), start->Save().tensors.at("basis"));
  // Again: the same bits. A step so small that it moves nothing: the encoder that it began with.
  const auto breathe = [] { return absl::OkStatus(); };
  EXPECT_EQ(EncodeAll(log, **TuneEncoder(log, *start, pairs, options, breathe)), after);
  options.steps = 1;
  options.lr = 1e-30;
  options.weight_decay = 0;
  EXPECT_EQ(EncodeAll(log, **TuneEncoder(log, *start, pairs, options, breathe)), before);
}

TEST(Encoder, IsNotTrainedOnWithoutAnythingToTrain) {
  const FakeLog log = ClusteredLog();
  EncoderOptions options = SmallOptions();
  const auto breathe = [] { return absl::OkStatus(); };
  const auto residual = Train(log, CrossPairs(), options);
  EXPECT_EQ(*TuneEncoder(log, *residual, {}, options, breathe), nullptr) << "no pairs";
  options.steps = 0;
  EXPECT_EQ(*TuneEncoder(log, *residual, CrossPairs(), options, breathe), nullptr) << "no steps";
  options.steps = 5;
  EXPECT_EQ(*TuneEncoder(log, *Train(log, {}, options), CrossPairs(), options, breathe), nullptr)
      << "plain PCA";
  int64_t left = 2;
  const auto stop = [&left] {
    return --left > 0 ? absl::OkStatus() : absl::CancelledError("stop");
  };
  EXPECT_EQ(TuneEncoder(log, *residual, CrossPairs(), options, stop).status(),
            absl::CancelledError("stop"));
  options.lr = -1;
  EXPECT_EQ(TuneEncoder(log, *residual, CrossPairs(), options, breathe).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Encoder, TakesOneContent) {
  FakeLog log({{.name = "text", .dim = 4}});
  log.AddItem(log.AddContent({{0.5f, 0.5f, 0.5f, 0.5f}}));
  const std::vector<float> z = EncodeAll(log, *Train(log, {}, {.dim = 2}));
  EXPECT_NEAR(Cosine(z, 2, 0, 0), 1.0, 1e-5);
}

TEST(Encoder, GivesEqualBitsForEqualInput) {
  const FakeLog log = ClusteredLog();
  const auto a = Train(log, CrossPairs(), SmallOptions());
  const auto b = Train(log, CrossPairs(), SmallOptions());
  EXPECT_EQ(a->Save().tensors, b->Save().tensors);
  EXPECT_EQ(EncodeAll(log, *a), EncodeAll(log, *b));
}

TEST(Encoder, EncodesARowAloneAsAmongOthers) {
  const FakeLog log = ClusteredLog();
  const auto encoder = Train(log, CrossPairs(), SmallOptions());
  const std::vector<float> all = EncodeAll(log, *encoder);
  for (const int32_t content : {0, 7, 179}) {
    const std::vector<float> alone =
        encoder->Encode(EncoderInputs(log, std::vector<int32_t>{content}));
    EXPECT_TRUE(
        std::ranges::equal(alone, std::span(all).subspan(static_cast<size_t>(content) * 8, 8)));
  }
}

TEST(Encoder, ComesBackFromItsFileWithEqualBits) {
  const FakeLog log = ClusteredLog();
  for (const EncoderKind kind : {EncoderKind::kPca, EncoderKind::kSwingResidual}) {
    EncoderOptions options = SmallOptions();
    options.kind = kind;
    const auto encoder = Train(log, CrossPairs(), options);
    const auto loaded = LoadEncoder(encoder->Save());
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(EncodeAll(log, **loaded), EncodeAll(log, *encoder));
    EXPECT_EQ((*loaded)->Save().tensors, encoder->Save().tensors);
  }
}

TEST(Encoder, RefusesFilesThatItDidNotWrite) {
  const FakeLog log = ClusteredLog();
  EncoderOptions options = SmallOptions();
  options.steps = 1;
  const TensorFile good = Train(log, CrossPairs(), options)->Save();
  const std::vector<std::function<void(TensorFile*)>> damages = {
      [](TensorFile* f) { f->metadata.clear(); },
      [](TensorFile* f) { f->metadata["what"] = "savior.codebook"; },
      [](TensorFile* f) { f->metadata["version"] = "2"; },
      [](TensorFile* f) { f->metadata["kind"] = "magic"; },
      [](TensorFile* f) { f->tensors.erase("basis"); },
      [](TensorFile* f) { f->tensors.erase("mlp.w2"); },
      [](TensorFile* f) {
        f->tensors["mean"].shape = {4, 4};
      },
      [](TensorFile* f) { f->tensors["mean"].data.pop_back(); },
      [](TensorFile* f) { f->tensors["alpha"].data[0] = std::nanf(""); },
      [](TensorFile* f) { f->tensors["mlp.b1"].shape = {-32}; },
  };
  for (size_t i = 0; i < damages.size(); ++i) {
    TensorFile file = good;
    damages[i](&file);
    EXPECT_EQ(LoadEncoder(file).status().code(), absl::StatusCode::kDataLoss) << "damage " << i;
  }
}

TEST(Encoder, RefusesWhatItCannotTrainOn) {
  const FakeLog log = ClusteredLog();
  const auto code = [&](std::vector<ContentPair> pairs, int64_t until, EncoderOptions options) {
    return TrainEncoder(log, pairs, until, options).status().code();
  };
  const auto kRefused = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({{0, 180, 1.0f}}, 1000, SmallOptions()), kRefused);
  EXPECT_EQ(code({{-1, 3, 1.0f}}, 1000, SmallOptions()), kRefused);
  EXPECT_EQ(code({{1, 3, 0.0f}}, 1000, SmallOptions()), kRefused);
  EXPECT_EQ(code({}, 0, SmallOptions()), kRefused);  // nothing listed before
  EXPECT_EQ(code({}, 1000, {.dim = 17}), kRefused);
  EXPECT_EQ(code({}, 1000, {.dim = 4, .initial_alpha = 0.0}), kRefused);
  EXPECT_THAT(TrainEncoder(log, {}, 1000, {.dim = 17}).status().message(), HasSubstr("17"));
}

}  // namespace
}  // namespace savior
