#include "worker/model/ranker.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "common/random.h"

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
  config.model.dnn = "16";
  config.model.tower = "8";
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
    in.align.keys = {AlignKey(0, 5), AlignKey(0, 6), AlignKey(1, 7)};
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

}  // namespace
}  // namespace savior
