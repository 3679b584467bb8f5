#include "worker/model/attention.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <memory>
#include <vector>

#include "worker/model/pair_attention.h"

namespace savior {
namespace {

struct Case {
  const char* name;
  int64_t modal;
  std::vector<int32_t> rows, positions;  // offsets
};

// Degenerate worlds on purpose: no request, no history, one candidate, one position, dims that fill
// no register.
std::vector<Case> Cases() {
  return {{"several_requests", 8, {0, 3, 4, 9}, {0, 5, 5, 12}},
          {"one_candidate_one_position", 8, {0, 1}, {0, 1}},
          {"no_history_at_all", 8, {0, 2, 5}, {0, 0, 0}},
          {"request_without_candidates", 8, {0, 0, 2}, {0, 4, 7}},
          {"odd_dims", 5, {0, 2, 3}, {0, 3, 20}},
          {"behaviour_only", 0, {0, 3, 4, 9}, {0, 5, 5, 12}}};
}

struct World {
  std::shared_ptr<AttentionShape> shape = std::make_shared<AttentionShape>();
  AttentionTensors in;

  World(const Case& c, int64_t behaviour, int64_t hidden) {
    torch::manual_seed(17);
    shape->modal = c.modal;
    shape->behaviour = behaviour;
    shape->hidden = hidden;
    shape->row_offsets = c.rows;
    shape->history_offsets = c.positions;
    const auto random = [](at::IntArrayRef sizes) { return at::randn(sizes).requires_grad_(true); };
    if (c.modal > 0) {
      in.query_modal = random({shape->rows(), c.modal});
      in.history_modal = random({shape->positions(), c.modal});
    }
    in.query = random({shape->rows(), behaviour});
    in.history = random({shape->positions(), behaviour});
    in.query_hidden = random({shape->rows(), hidden});
    in.history_hidden = random({shape->positions(), hidden});
    in.product = random({hidden, behaviour});
    in.score = random({hidden});
  }

  std::vector<at::Tensor> leaves() const {
    std::vector<at::Tensor> all;
    for (const at::Tensor& t : {in.query_modal, in.history_modal, in.query, in.history,
                                in.query_hidden, in.history_hidden, in.product, in.score}) {
      if (t.defined()) all.push_back(t);
    }
    return all;
  }
};

class AttentionTest : public testing::TestWithParam<Case> {};

TEST_P(AttentionTest, EqualsTheReferenceForwardAndBackward) {
  for (const auto& [behaviour, hidden] : {std::pair<int64_t, int64_t>{4, 16}, {7, 3}, {32, 16}}) {
    const World world(GetParam(), behaviour, hidden);
    const at::Tensor fast = BiTargetAttention(world.shape, world.in);
    const at::Tensor slow = BiTargetAttentionReference(*world.shape, world.in);
    ASSERT_EQ(fast.sizes(), slow.sizes());
    EXPECT_TRUE(at::allclose(fast, slow, 1e-5, 1e-5));

    const at::Tensor weight = at::randn(fast.sizes());
    const auto leaves = world.leaves();
    const auto grads = torch::autograd::grad({(fast * weight).sum()}, leaves);
    if (world.shape->pairs() == 0) {
      for (const at::Tensor& grad : grads) EXPECT_EQ(grad.abs().sum().item<float>(), 0.0f);
      continue;
    }
    const auto expected = torch::autograd::grad({(slow * weight).sum()}, leaves);
    for (size_t i = 0; i < leaves.size(); ++i) {
      EXPECT_TRUE(at::allclose(grads[i], expected[i], 1e-4, 1e-4)) << "input " << i;
    }
  }
}

Pairs PairsOfShape(const AttentionShape& shape) {
  const RowHistories histories = HistoriesOf(shape.row_offsets, shape.history_offsets);
  return PairsOf(at::tensor(histories.begin), at::tensor(histories.length), histories.pairs);
}

TEST_P(AttentionTest, OverPairsEqualsTheKernelForwardAndBackward) {
  for (const auto& [behaviour, hidden] : {std::pair<int64_t, int64_t>{4, 16}, {7, 3}, {32, 16}}) {
    const World world(GetParam(), behaviour, hidden);
    const Pairs pairs = PairsOfShape(*world.shape);
    EXPECT_EQ(pairs.row.size(0), world.shape->pairs());
    const at::Tensor fused = BiTargetAttention(world.shape, world.in);
    const at::Tensor batched = PairAttention(pairs, world.shape->modal > 0, world.in);
    ASSERT_EQ(batched.sizes(), fused.sizes());
    EXPECT_TRUE(at::allclose(batched, fused, 1e-5, 1e-5));

    const at::Tensor weight = at::randn(fused.sizes());
    const auto leaves = world.leaves();
    const auto grads = torch::autograd::grad({(batched * weight).sum()}, leaves);
    const auto expected = torch::autograd::grad({(fused * weight).sum()}, leaves);
    for (size_t i = 0; i < leaves.size(); ++i) {
      EXPECT_TRUE(at::allclose(grads[i], expected[i], 1e-4, 1e-5)) << "input " << i;
    }
  }
}

TEST_P(AttentionTest, TiersOverPairsEqualTheKernels) {
  constexpr int64_t kDim = 6, kBins = 16;
  const World world(GetParam(), 4, 4);
  const auto unit = [](int64_t n) {
    const at::Tensor x = at::randn({n, kDim});
    return x / x.norm(2, 1, true);
  };
  const at::Tensor query = unit(world.shape->rows()), history = unit(world.shape->positions());
  at::Tensor expected = at::empty({world.shape->rows(), kBins});
  SimilarityTiers(*world.shape, kDim, query.data_ptr<float>(), history.data_ptr<float>(), kBins,
                  expected.data_ptr<float>());
  EXPECT_TRUE(at::allclose(PairSimilarityTiers(PairsOfShape(*world.shape), query, history, kBins),
                           expected, 1e-6, 1e-6));
}

INSTANTIATE_TEST_SUITE_P(Worlds, AttentionTest, testing::ValuesIn(Cases()),
                         [](const auto& p) { return std::string(p.param.name); });

TEST(Attention, RequestsDoNotMix) {
  World world(Cases()[0], 4, 8);
  const at::Tensor before = BiTargetAttention(world.shape, world.in).detach().clone();
  {
    at::NoGradGuard no_grad;
    world.in.history.slice(0, 5).add_(1.0);  // positions of the last request only
  }
  const at::Tensor after = BiTargetAttention(world.shape, world.in).detach();
  EXPECT_TRUE(at::equal(before.slice(0, 0, 4), after.slice(0, 0, 4)));
  EXPECT_FALSE(at::allclose(before.slice(0, 4), after.slice(0, 4)));
}

TEST(Attention, EmptyHistoryGivesZeros) {
  const World world(Cases()[0], 4, 8);
  const at::Tensor out = BiTargetAttention(world.shape, world.in);
  EXPECT_EQ(out.slice(0, 3, 4).abs().sum().item<float>(), 0.0f);
}

TEST(SimilarityTiers, CountsPositionsByCosine) {
  AttentionShape shape;
  shape.row_offsets = {0, 1};
  shape.history_offsets = {0, 4};
  const float query[] = {1, 0};
  const float history[] = {1, 0, -1, 0, 0, 1, 0, 0};  // cosines 1, -1, 0, and a missing vector: 0
  float tiers[4] = {9, 9, 9, 9};
  SimilarityTiers(shape, 2, query, history, 4, tiers);
  EXPECT_FLOAT_EQ(tiers[0], std::log1p(1.0f));
  EXPECT_FLOAT_EQ(tiers[1], 0.0f);
  EXPECT_FLOAT_EQ(tiers[2], std::log1p(2.0f));
  EXPECT_FLOAT_EQ(tiers[3], std::log1p(1.0f));
}

}  // namespace
}  // namespace savior
