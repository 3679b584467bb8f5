#include "worker/model/ranker.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "common/random.h"
#include "worker/device.h"

namespace savior {
namespace {

const char* const kArms[] = {"base",   "generic_content", "saviorenc",    "sid",         "mba",
                             "savior", "mba_off",         "shuffled_sid", "free_content"};

Config SmallConfig(const std::string& arm) {
  Config config;
  config.model.arm = arm;
  config.model.id_dim = 8;
  config.model.feature_dim = 4;
  config.model.attention_hidden = 4;
  config.model.dnn = std::string("16");  // g++ 12 warns falsely of an assigned literal
  config.model.tower = std::string("8");
  config.model.fusion_hidden = 8;
  config.encoder.dim = 12;
  config.codebook.levels = 2;
  return config;
}

constexpr Ranker::Sizes kSizes = {2, 1, 3};

// Three requests: 2 candidates with 3 positions, 1 candidate without history, 2 candidates with 1
// position. Item 4 has no vector. Rows are random, alignment rows zero as in a table.
StepInputs MakeInputs(const Config& config) {
  StepInputs in;
  in.batch.users = {0, 1, 0};
  in.batch.row_offsets = {0, 2, 3, 5};
  in.batch.history_offsets = {0, 3, 3, 4};
  in.batch.items.resize(5);
  in.batch.global_requests = 3;
  in.batch.global_rows = 5;
  in.batch.clicks = {1, 0, 1, 0, 1};
  in.batch.conversions = {0, 0, 1, 0, 1};
  in.user.keys = {100, 101};
  in.item.keys = {10, 11, 12, 13, 14};
  in.candidates = 4;
  in.user_of_row = {0, 0, 1, 0, 0};
  in.item_of_row = {0, 1, 2, 3, 0};
  in.item_of_position = {3, 4, 1, 0};
  in.content_of_item = {0, 1, 2, 0, 3};
  in.content_keys = {10, 11, 12};
  in.feature.keys = {1, 2, 3};
  const int64_t featured = config.model.behaviour_features ? 5 : in.candidates;
  for (int64_t i = 0; i < 2 * featured; ++i) in.features_of_item.push_back(i % 3);
  in.context_of_row = {0, 1, 2, 0, 1};
  const Arm arm = ArmOf(config.model.arm);
  if (arm.uses_codes()) {
    in.align.keys = {AlignKey(0, 0, 5), AlignKey(0, 0, 6), AlignKey(0, 1, 7)};
    in.codes_of_content = {0, 1, 0, 2, 2, 2};
  }
  if (arm.free_content || (arm.alignment && config.model.alignment == "hybrid")) {
    in.content_vector.keys = in.content_keys;
  }
  Random random(5);
  const auto fill = [&random](std::vector<float>& values, size_t n) {
    for (size_t i = 0; i < n; ++i) values.push_back(static_cast<float>(random.Normal()));
  };
  fill(in.user.rows, in.user.keys.size() * 8);
  fill(in.item.rows, in.item.keys.size() * 8);
  fill(in.feature.rows, in.feature.keys.size() * 4);
  if (arm.content || arm.uses_codes()) fill(in.z, 3 * 12);
  fill(in.numerics, 5 * 3);
  in.align.rows.assign(in.align.keys.size() * 12, 0.0f);
  in.content_vector.rows.assign(in.content_vector.keys.size() * 12, 0.0f);
  in.content_vector.updates.assign(in.content_vector.keys.size(), 0);
  return in;
}

double Loss(Ranker& ranker, const StepInputs& in) {
  RowGradients grads;
  const RankerLosses losses = ranker.Learn(in, 0, &grads);
  return losses.ctr + losses.ctcvr;
}

class RankerArmTest : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Arms, RankerArmTest, testing::ValuesIn(kArms),
                         [](const auto& p) { return std::string(p.param); });

// Central differences over every kind of input: the whole graph, not only the attention kernel.
TEST_P(RankerArmTest, GradientsAreThoseOfTheLoss) {
  Config config = SmallConfig(GetParam());
  config.model.hybrid_suffix_dropout = 0;
  Ranker ranker(config, kSizes);
  StepInputs in = MakeInputs(config);
  Random random(9);
  for (float& a : in.align.rows) a = static_cast<float>(0.3 * random.Normal());
  for (float& a : in.content_vector.rows) a = static_cast<float>(0.3 * random.Normal());
  RowGradients grads;
  ranker.Learn(in, 0, &grads);
  const std::vector<float> dense_grads = ranker.dense().gradients();

  const auto check = [&](std::vector<float>& values, const std::vector<float>& gradient,
                         const char* what) {
    if (values.empty()) return;
    if (gradient.empty()) return ADD_FAILURE() << what << " got no gradient";
    for (size_t i = 0; i < values.size(); i += 1 + values.size() / 17) {
      const float old = values[i];
      constexpr float kStep = 2e-3f;
      values[i] = old + kStep;
      const double up = Loss(ranker, in);
      values[i] = old - kStep;
      const double down = Loss(ranker, in);
      values[i] = old;
      EXPECT_NEAR((up - down) / (2 * kStep), gradient[i], 4e-3 + 0.03 * std::abs(gradient[i]))
          << what << "[" << i << "]";
    }
  };
  check(in.user.rows, grads.user, "user");
  check(in.item.rows, grads.item, "item");
  check(in.feature.rows, grads.feature, "feature");
  check(in.align.rows, grads.align, "align");
  check(in.content_vector.rows, grads.content_vector, "content_vector");
  check(ranker.dense().weights(), dense_grads, "dense");
}

TEST_P(RankerArmTest, LearnsToFitOneBatchAndPredictsProbabilities) {
  const Config config = SmallConfig(GetParam());
  Ranker ranker(config, kSizes);
  const StepInputs in = MakeInputs(config);
  const double before = Loss(ranker, in);
  AdamOptions adam;
  adam.lr = 0.01;
  for (int step = 0; step < 80; ++step) {
    RowGradients grads;
    ranker.Learn(in, step, &grads);
    ranker.dense().AdamStep(adam);
  }
  EXPECT_LT(Loss(ranker, in), 0.5 * before);
  std::vector<float> ctr, ctcvr;
  ranker.Predict(in, &ctr, &ctcvr);
  ASSERT_EQ(ctr.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_GE(ctr[i], 0.0f);
    EXPECT_LE(ctr[i], 1.0f);
    EXPECT_LE(ctcvr[i], ctr[i]);  // pCTCVR = pCTR * pCVR
    EXPECT_EQ(ctr[i] > 0.5f, in.batch.clicks[i] > 0.5f) << i;
  }
}

TEST_P(RankerArmTest, IsDeterministic) {
  const Config config = SmallConfig(GetParam());
  const StepInputs in = MakeInputs(config);
  Ranker a(config, kSizes), b(config, kSizes);
  RowGradients grads_a, grads_b;
  EXPECT_EQ(a.Learn(in, 3, &grads_a).ctr, b.Learn(in, 3, &grads_b).ctr);
  EXPECT_EQ(a.dense().gradients(), b.dense().gradients());
  EXPECT_EQ(grads_a.item, grads_b.item);
}

// The paper's zero start: the aligned vector is the content vector, bit for bit, and the zero rows
// do learn.
TEST(Ranker, AlignedContentStartsAtZBitForBitAndItsRowsGetGradients) {
  for (const char* alignment : {"codes", "hybrid"}) {
    Config config = SmallConfig("savior");
    config.model.alignment = alignment;
    Ranker ranker(config, kSizes);
    const StepInputs in = MakeInputs(config);
    const at::Tensor aligned = ranker.Aligned(in);
    const std::vector<float> z(aligned.data_ptr<float>(),
                               aligned.data_ptr<float>() + aligned.numel());
    EXPECT_EQ(z, in.z);
    RowGradients grads;
    ranker.Learn(in, 0, &grads);
    for (const auto* gradient : {&grads.align, &grads.content_vector}) {
      if (gradient == &grads.content_vector && std::string(alignment) == "codes") {
        EXPECT_TRUE(gradient->empty());
        continue;
      }
      EXPECT_TRUE(std::ranges::any_of(*gradient, [](float g) { return g != 0.0f; })) << alignment;
    }
  }
}

TEST(Ranker, SuffixDropoutTouchesLearningOnly) {
  Config config = SmallConfig("savior");
  config.model.hybrid_suffix_dropout = 0.9;
  Ranker ranker(config, kSizes);
  StepInputs in = MakeInputs(config);
  in.align.rows.assign(in.align.rows.size(), 0.5f);
  RowGradients grads;
  const double a = ranker.Learn(in, 0, &grads).ctr, b = ranker.Learn(in, 1, &grads).ctr;
  EXPECT_NE(a, b);  // other parts dropped
  std::vector<float> first, second, ctcvr;
  ranker.Predict(in, &first, &ctcvr);
  ranker.Predict(in, &second, &ctcvr);
  EXPECT_EQ(first, second);
}

TEST(Ranker, EmptyBatchAndBatchWithoutVectorsWork) {
  const Config config = SmallConfig("savior");
  Ranker ranker(config, kSizes);
  StepInputs in = MakeInputs(config);
  // Nobody has a vector: everybody points at the row of zeros behind none.
  in.content_of_item.assign(5, 0);
  in.content_keys.clear();
  in.z.clear();
  in.align = {};
  in.content_vector = {};
  in.codes_of_content.clear();
  RowGradients grads;
  EXPECT_TRUE(std::isfinite(ranker.Learn(in, 0, &grads).ctr));
  EXPECT_TRUE(grads.align.empty());
  std::vector<float> ctr, ctcvr;
  ranker.Predict(in, &ctr, &ctcvr);
  EXPECT_EQ(ctr.size(), 5u);

  StepInputs empty;
  empty.batch.row_offsets = empty.batch.history_offsets = {0};
  ranker.Learn(empty, 0, &grads);
  EXPECT_TRUE(std::ranges::all_of(ranker.dense().gradients(), [](float g) { return g == 0.0f; }));
  ranker.Predict(empty, &ctr, &ctcvr);
  EXPECT_TRUE(ctr.empty());
}

TEST(Ranker, BehaviourFeaturesReachTheHistory) {
  Config config = SmallConfig("base");
  config.model.behaviour_features = true;
  Ranker ranker(config, kSizes);
  const StepInputs in = MakeInputs(config);
  RowGradients grads;
  ranker.Learn(in, 0, &grads);
  EXPECT_TRUE(std::ranges::any_of(grads.feature, [](float g) { return g != 0.0f; }));
}

// 30 requests of 0 to 6 candidates and 0 to 11 positions, over 40 items: keys that occur often, and
// requests without candidates, without history, without either.
struct JaggedSizes {
  int64_t requests = 30, candidates = 7, positions = 12;  // of a request at most: one less
};

StepInputs MakeJaggedInputs(const Config& config, const JaggedSizes& sizes = {}) {
  constexpr int64_t kItems = 40, kCandidates = 25, kContents = 15, kUsers = 9, kFeatures = 20;
  const Arm arm = ArmOf(config.model.arm);
  StepInputs in;
  Random random(11);
  const auto below = [&random](int64_t n) {
    return static_cast<int64_t>(random.Below(static_cast<uint64_t>(n)));
  };
  const auto keys = [](std::vector<uint64_t>* to, int64_t n) {
    for (int64_t i = 0; i < n; ++i) to->push_back(static_cast<uint64_t>(1000 + i));
  };
  const auto normals = [&random](std::vector<float>* to, int64_t n, double scale) {
    for (int64_t i = 0; i < n; ++i) to->push_back(static_cast<float>(scale * random.Normal()));
  };
  in.batch.row_offsets = in.batch.history_offsets = {0};
  for (int64_t request = 0; request < sizes.requests; ++request) {
    in.batch.users.push_back(static_cast<int32_t>(request));
    const int64_t user = below(kUsers);
    for (int64_t n = below(sizes.candidates); n > 0; --n) {
      in.batch.items.push_back(0);
      in.batch.clicks.push_back(static_cast<float>(below(2)));
      in.batch.conversions.push_back(static_cast<float>(below(2)));
      in.user_of_row.push_back(user);
      in.item_of_row.push_back(below(kCandidates));
    }
    for (int64_t t = below(sizes.positions); t > 0; --t)
      in.item_of_position.push_back(below(kItems));
    in.batch.row_offsets.push_back(static_cast<int32_t>(in.batch.items.size()));
    in.batch.history_offsets.push_back(static_cast<int32_t>(in.item_of_position.size()));
  }
  const int64_t rows = in.batch.rows(), modal = config.encoder.dim;
  in.batch.global_requests = in.batch.requests();
  in.batch.global_rows = rows;
  in.candidates = kCandidates;
  keys(&in.user.keys, kUsers);
  keys(&in.item.keys, kItems);
  keys(&in.feature.keys, kFeatures);
  keys(&in.content_keys, kContents);
  normals(&in.user.rows, kUsers * config.model.id_dim, 1);
  normals(&in.item.rows, kItems * config.model.id_dim, 1);
  normals(&in.feature.rows, kFeatures * config.model.feature_dim, 1);
  normals(&in.numerics, rows * kSizes.numerics, 1);
  for (int64_t i = 0; i < kItems; ++i) in.content_of_item.push_back(below(kContents + 1));
  const int64_t featured = config.model.behaviour_features ? kItems : kCandidates;
  for (int64_t i = 0; i < kSizes.features * featured; ++i)
    in.features_of_item.push_back(below(kFeatures));
  for (int64_t i = 0; i < kSizes.context * rows; ++i) in.context_of_row.push_back(below(kFeatures));
  if (arm.content || arm.uses_codes()) normals(&in.z, kContents * modal, 0.25);
  if (arm.uses_codes()) {
    keys(&in.align.keys, 8);
    normals(&in.align.rows, 8 * modal, 0.3);
    for (int64_t i = 0; i < config.codebook.levels * kContents; ++i)
      in.codes_of_content.push_back(below(8));
  }
  if (arm.free_content || (arm.alignment && config.model.alignment == "hybrid")) {
    in.content_vector.keys = in.content_keys;
    normals(&in.content_vector.rows, kContents * modal, 0.3);
    for (int64_t c = 0; c < kContents; ++c)
      in.content_vector.updates.push_back(static_cast<uint32_t>(below(30)));
  }
  return in;
}

double Largest(const std::vector<float>& values) {
  double most = 0;
  for (const float v : values) most = std::max(most, std::abs(static_cast<double>(v)));
  return most;
}

// Equal up to `tolerance` times the largest of `expected`, and `floor`.
void ExpectClose(const std::vector<float>& values, const std::vector<float>& expected,
                 double tolerance, const char* what, double floor = 0) {
  ASSERT_EQ(values.size(), expected.size()) << what;
  double difference = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(values[i]) - expected[i]));
  }
  const double most = Largest(expected);
  EXPECT_LE(difference, tolerance * most + floor) << what << ", whose largest is " << most;
}

// Five steps of learning, then scoring, on the CPU's own path and on the device path.
void ExpectPathsAgree(const Config& config, const StepInputs& in, at::Device device,
                      double tolerance) {
  Ranker fused(config, kSizes), other(config, kSizes, {.device = device, .device_path = true});
  ASSERT_EQ(fused.dense().weights(), other.dense().weights());
  AdamOptions adam;
  adam.weight_decay = 0.01;
  for (int64_t step = 0; step < 5; ++step) {
    SCOPED_TRACE(step);
    RowGradients expected, grads;
    const RankerLosses a = fused.Learn(in, step, &expected), b = other.Learn(in, step, &grads);
    EXPECT_NEAR(b.ctr, a.ctr, tolerance * a.ctr);
    EXPECT_NEAR(b.ctcvr, a.ctcvr, tolerance * a.ctcvr);
    ExpectClose(grads.user, expected.user, tolerance, "user");
    ExpectClose(grads.item, expected.item, tolerance, "item");
    ExpectClose(grads.feature, expected.feature, tolerance, "feature");
    ExpectClose(grads.align, expected.align, tolerance, "align");
    ExpectClose(grads.content_vector, expected.content_vector, tolerance, "content_vector");
    const std::vector<float> gradients = other.dense().gradients();
    // Small gradients are what is left of large terms: those are rounded at float32's 6e-8.
    const double floor = 1e-7 * Largest(gradients);
    for (const DenseWeights::Parameter& p : fused.dense().parameters()) {
      const auto slice = [&p](const std::vector<float>& all) {
        return std::vector<float>(all.begin() + p.offset, all.begin() + p.offset + p.size);
      };
      ExpectClose(slice(gradients), slice(fused.dense().gradients()), tolerance, p.name.c_str(),
                  floor);
    }
    fused.dense().AdamStep(adam);
    // Adam divides by the gradient's size and so magnifies the last bits of small ones: every step
    // starts from the same state, which goes through Save and Load.
    ASSERT_TRUE(other.dense().Load(fused.dense().Save()).ok());
  }
  std::vector<float> ctr, ctcvr, expected_ctr, expected_ctcvr;
  fused.Predict(in, &expected_ctr, &expected_ctcvr);
  other.Predict(in, &ctr, &ctcvr);
  ExpectClose(ctr, expected_ctr, tolerance, "pCTR");
  ExpectClose(ctcvr, expected_ctcvr, tolerance, "pCTCVR");
}

TEST_P(RankerArmTest, DevicePathAgreesWithTheFusedOne) {
  for (const bool behaviour_features : {false, true}) {
    Config config = SmallConfig(GetParam());
    config.model.behaviour_features = behaviour_features;
    config.model.id_dropout = 0.2;
    ExpectPathsAgree(config, MakeJaggedInputs(config), at::kCPU, 1e-5);
    ExpectPathsAgree(config, MakeInputs(config), at::kCPU, 1e-5);
  }
}

TEST(Ranker, DevicePathTakesBatchesWithoutHistoryAndEmptyOnes) {
  const Config config = SmallConfig("savior");
  StepInputs in = MakeInputs(config);
  in.batch.history_offsets = {0, 0, 0, 0};
  in.item_of_position.clear();
  ExpectPathsAgree(config, in, at::kCPU, 1e-5);

  Ranker ranker(config, kSizes, {.device_path = true});
  StepInputs empty;
  empty.batch.row_offsets = empty.batch.history_offsets = {0};
  RowGradients grads;
  ranker.Learn(empty, 0, &grads);
  EXPECT_TRUE(std::ranges::all_of(ranker.dense().gradients(), [](float g) { return g == 0.0f; }));
}

// Kernels of a GPU add in another order: what 1e-5 is between two orders on the CPU, grows there.
class RankerGpu : public testing::TestWithParam<const char*> {
  void SetUp() override {
    const auto gpus = FindGpus();
    if (!gpus.ok()) GTEST_SKIP() << gpus.status().message();
    gpu_ = PickDevice("cuda", 0).value();
  }

 protected:
  at::Device gpu_ = at::kCPU;
};
INSTANTIATE_TEST_SUITE_P(Arms, RankerGpu, testing::ValuesIn(kArms),
                         [](const auto& p) { return std::string(p.param); });

TEST_P(RankerGpu, AgreesWithTheCpu) {
  const Config config = SmallConfig(GetParam());
  ExpectPathsAgree(config, MakeJaggedInputs(config), gpu_, 1e-4);
}

void ExpectRepeats(const Config& config, const StepInputs& in, at::Device device, int64_t steps) {
  Ranker a(config, kSizes, {.device = device}), b(config, kSizes, {.device = device});
  for (int64_t step = 0; step < steps; ++step) {
    RowGradients grads_a, grads_b;
    a.Learn(in, step, &grads_a);
    b.Learn(in, step, &grads_b);
    ASSERT_EQ(a.dense().gradients(), b.dense().gradients()) << "step " << step;
    ASSERT_EQ(grads_a.user, grads_b.user) << "step " << step;
    ASSERT_EQ(grads_a.item, grads_b.item) << "step " << step;
    ASSERT_EQ(grads_a.feature, grads_b.feature) << "step " << step;
    ASSERT_EQ(grads_a.align, grads_b.align) << "step " << step;
    ASSERT_EQ(grads_a.content_vector, grads_b.content_vector) << "step " << step;
    a.dense().AdamStep({});
    b.dense().AdamStep({});
  }
}

TEST_P(RankerGpu, RepeatsItselfBitForBit) {
  const Config config = SmallConfig(GetParam());
  ExpectRepeats(config, MakeJaggedInputs(config), gpu_, 20);
}

// Kernels of a GPU are others for many rows than for few.
TEST_P(RankerGpu, RepeatsItselfBitForBitAtTheSizeOfARealStep) {
  Config config;
  config.model.arm = GetParam();
  ExpectRepeats(config,
                MakeJaggedInputs(config, {.requests = 64, .candidates = 40, .positions = 100}),
                gpu_, 20);
}

}  // namespace
}  // namespace savior
