#include "worker/refresh/codebook_build.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "common/random.h"
#include "tests/worker/refresh/thread_group.h"
#include "worker/model/codebook.h"
#include "worker/refresh/group_sums.h"

namespace savior {
namespace {

// As a worker computes.
const int kOneThread = (at::set_num_threads(1), 1);

constexpr int kDim = 8, kCodes = 8, kLevels = 2;

// Points around `kCodes` centres that lie at angle `turn` from those of turn 0.
std::vector<float> Points(size_t n, double turn, uint64_t seed) {
  Random centres(1), noise(seed, 2);
  std::vector<float> centre(kCodes * kDim);
  for (float& v : centre) v = static_cast<float>(centres.Normal());
  std::vector<float> points;
  for (size_t i = 0; i < n; ++i) {
    const float* c = &centre[i % kCodes * kDim];
    for (int d = 0; d < kDim; d += 2) {
      const double x = c[d] * std::cos(turn) - c[d + 1] * std::sin(turn);
      const double y = c[d] * std::sin(turn) + c[d + 1] * std::cos(turn);
      points.push_back(static_cast<float>(x + 0.2 * noise.Normal()));
      points.push_back(static_cast<float>(y + 0.2 * noise.Normal()));
    }
  }
  return points;
}

std::unique_ptr<Codebook> First(const std::vector<float>& z, int finetune_steps = 0) {
  CodebookOptions options;
  options.levels = kLevels;
  options.codes = kCodes;
  options.finetune_steps = finetune_steps;
  options.hidden = 16;
  options.batch = 64;
  options.seed = 5;
  return *TrainCodebook(z, kDim, {}, {}, options);
}

struct Built {
  std::unique_ptr<Codebook> codebook;
  std::vector<int32_t> codes;  // of all, in the order of z
  std::vector<double> joint;
  BuildFigures figures;
};

// As `workers` workers would, content c being worker c % workers' own.
Built Build(const Codebook& current, const std::vector<float>& z,
            const std::vector<double>& weights, uint32_t workers, BuildOptions options = {}) {
  const size_t n = weights.size();
  const std::vector<int32_t> codes = current.Quantise(z);
  Built built;
  built.codes.resize(codes.size());
  std::mutex mutex;
  RunAsGroup(workers, [&](Group* group) {
    std::vector<float> own_z;
    std::vector<double> own_weights;
    std::vector<int32_t> own_codes;
    for (size_t c = group->rank(); c < n; c += workers) {
      own_z.insert(own_z.end(), &z[c * kDim], &z[c * kDim] + kDim);
      own_weights.push_back(weights[c]);
      own_codes.insert(own_codes.end(), &codes[c * kLevels], &codes[c * kLevels] + kLevels);
    }
    WorkBudget budget(1.0);
    absl::StatusOr<CodebookBuild> got =
        BuildCodebook(current, {own_z, own_weights, own_codes}, options, group, &budget);
    ASSERT_TRUE(got.ok()) << got.status();
    const std::scoped_lock lock(mutex);
    for (size_t i = 0, c = group->rank(); c < n; c += workers, ++i) {
      std::copy_n(&got->codes[i * kLevels], kLevels, &built.codes[c * kLevels]);
    }
    if (!built.joint.empty()) {
      EXPECT_EQ(built.joint, got->joint);
    }
    built.joint = std::move(got->joint);
    built.figures = got->figures;
    built.codebook = std::move(got->codebook);
  });
  return built;
}

std::vector<double> Ones(size_t n) { return std::vector<double>(n, 1.0); }

TEST(CodebookBuild, FollowsADriftThatTheOldCodebookCannot) {
  const std::vector<float> before = Points(800, 0, 1), now = Points(800, 0.35, 2);
  const auto current = First(before);
  const Built built = Build(*current, now, Ones(800), 2);
  EXPECT_LT(built.figures.rq_mse, 0.8 * built.figures.rq_mse_before);
  EXPECT_DOUBLE_EQ(built.figures.contents, 800);
  // As good as starting afresh, within a few percent.
  EXPECT_LT(built.figures.rq_mse, 1.15 * Measure(*First(now), now).rq_mse);
  double error = 0;
  const std::vector<float> decoded = built.codebook->Decode(built.codes);
  for (size_t i = 0; i < now.size(); ++i) {
    error += std::pow(static_cast<double>(now[i]) - decoded[i], 2);
  }
  EXPECT_NEAR(error / 800, built.figures.rq_mse, 1e-9);
}

TEST(CodebookBuild, RepeatsBitForBitAndDoesNotDependMuchOnTheWorkers) {
  const std::vector<float> z = Points(640, 0.3, 3);
  const auto current = First(Points(640, 0, 1));
  const Built one = Build(*current, z, Ones(640), 1);
  for (const uint32_t workers : {1u, 2u, 4u}) {
    const Built a = Build(*current, z, Ones(640), workers);
    const Built b = Build(*current, z, Ones(640), workers);
    EXPECT_EQ(a.figures.sha256, b.figures.sha256);
    EXPECT_EQ(a.codes, b.codes);
    EXPECT_NEAR(a.figures.rq_mse, one.figures.rq_mse, 1e-3 * one.figures.rq_mse);
  }
}

TEST(CodebookBuild, FineTunesTogether) {
  const std::vector<float> z = Points(640, 0.35, 3);
  const auto current = First(Points(640, 0, 1), 60);
  BuildOptions tuned;
  tuned.finetune.finetune_steps = 60;
  tuned.finetune.batch = 64;
  const Built without = Build(*current, z, Ones(640), 2);
  const Built with = Build(*current, z, Ones(640), 2, tuned);
  EXPECT_LT(with.figures.rq_mse, without.figures.rq_mse);
  EXPECT_EQ(with.figures.sha256, Build(*current, z, Ones(640), 2, tuned).figures.sha256);
  EXPECT_NEAR(Build(*current, z, Ones(640), 1, tuned).figures.rq_mse, with.figures.rq_mse,
              0.1 * with.figures.rq_mse);
  // Workers whose contents teach nothing, or who have none, follow.
  std::vector<double> weights = Ones(640);
  for (size_t i = 1; i < weights.size(); i += 2) weights[i] = 0;
  EXPECT_EQ(Build(*current, z, weights, 2, tuned).figures.contents, 320);
}

TEST(CodebookBuild, WithoutDriftNothingMoves) {
  const std::vector<float> z = Points(800, 0, 1);
  const auto current = First(z);
  const Built built = Build(*current, z, Ones(800), 2);
  for (const double churn : built.figures.churn) EXPECT_LT(churn, 0.01);
}

// What is popular counts when rows are made, not for where codes are: the first codebook did not
// look at it, and what has not drifted is to stay.
TEST(CodebookBuild, PopularContentsDoNotPullTheCodes) {
  const std::vector<float> z = Points(800, 0, 1);
  std::vector<double> weights = Ones(800);
  for (size_t i = 0; i < weights.size(); i += 7) weights[i] = 40;
  const Built built = Build(*First(z), z, weights, 2);
  for (const double churn : built.figures.churn) EXPECT_LT(churn, 0.01);
  BuildOptions tuned;
  tuned.finetune.finetune_steps = 10;
  tuned.finetune.batch = 64;
  const auto current = First(z, 60);
  EXPECT_EQ(Build(*current, z, weights, 2, tuned).figures.sha256,
            Build(*current, z, Ones(800), 2, tuned).figures.sha256);
}

TEST(CodebookBuild, HysteresisKeepsCodesNearTheBorder) {
  const std::vector<float> z = Points(800, 0.25, 4);
  const auto current = First(Points(800, 0, 1));
  BuildOptions strict, loose;
  strict.hysteresis = 1.0;
  loose.hysteresis = 1.3;
  const Built without = Build(*current, z, Ones(800), 1, strict);
  const Built with = Build(*current, z, Ones(800), 1, loose);
  EXPECT_EQ(without.codes, without.codebook->Quantise(z));
  EXPECT_LT(with.figures.churn[1], without.figures.churn[1]);
}

TEST(CodebookBuild, JointSaysWhoWentWhere) {
  const std::vector<float> z = Points(400, 0.3, 5);
  const auto current = First(Points(400, 0, 1));
  std::vector<double> weights = Ones(400);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<double>(i % 3);
  const Built built = Build(*current, z, weights, 3);
  const std::vector<int32_t> before = current->Quantise(z);
  std::vector<double> joint(kLevels * kCodes * kCodes);
  for (size_t i = 0; i < weights.size(); ++i) {
    for (size_t l = 0; l < kLevels; ++l) {
      joint[(l * kCodes + static_cast<size_t>(built.codes[i * kLevels + l])) * kCodes +
            static_cast<size_t>(before[i * kLevels + l])] += weights[i];
    }
  }
  EXPECT_EQ(built.joint, joint);
  EXPECT_DOUBLE_EQ(built.figures.contents, 400 - 134);  // those with a weight
}

TEST(CodebookBuild, ContentsWithoutWeightGetCodesAndTeachNothing) {
  std::vector<float> z = Points(400, 0, 1);
  const auto current = First(z);
  std::vector<double> weights = Ones(400);
  const Built alone = Build(*current, z, weights, 1);
  const std::vector<float> strange = Points(50, 1.5, 9);
  z.insert(z.end(), strange.begin(), strange.end());
  weights.resize(450, 0.0);
  const Built with = Build(*current, z, weights, 1);
  EXPECT_EQ(alone.figures.sha256, with.figures.sha256);
  EXPECT_EQ(with.codes.size(), 450u * kLevels);
}

TEST(CodebookBuild, ACodeThatNobodyIsNearToIsReseeded) {
  const std::vector<float> z = Points(400, 0, 1);
  const auto first = First(z);
  std::vector<float> embeddings(first->embeddings().begin(), first->embeddings().end());
  for (int d = 0; d < kDim; ++d) embeddings[3 * kDim + static_cast<size_t>(d)] = 1000;
  const Built built = Build(*first->WithEmbeddings(embeddings), z, Ones(400), 2);
  EXPECT_GE(built.figures.reseeded, 1);
  EXPECT_EQ(built.figures.levels[0].dead, 0);
}

TEST(CodebookBuild, DegenerateWorlds) {
  const std::vector<float> z = Points(400, 0, 1);
  const auto current = First(z);
  // One content, more workers than contents, fewer contents than codes.
  for (const size_t n : {1u, 3u}) {
    const std::vector<float> few(z.begin(), z.begin() + static_cast<std::ptrdiff_t>(n * kDim));
    const Built built = Build(*current, few, Ones(n), 4);
    EXPECT_LT(built.figures.rq_mse, 1e-6);
  }
  SoloGroup solo;
  WorkBudget budget(1.0);
  EXPECT_EQ(BuildCodebook(*current, {}, {}, &solo, &budget).status().code(),
            absl::StatusCode::kInvalidArgument);
  const std::vector<int32_t> bad = {0, kCodes};
  const std::vector<double> one = {1};
  EXPECT_EQ(BuildCodebook(*current, {std::span(z).first(kDim), one, bad}, {}, &solo, &budget)
                .status()
                .code(),
            absl::StatusCode::kDataLoss);
}

TEST(CodebookBuild, IsGivenUp) {
  const std::vector<float> z = Points(400, 0, 1);
  const auto current = First(z);
  std::atomic<bool> give_up = true;
  SoloGroup solo;
  WorkBudget budget(1.0, &give_up);
  const std::vector<int32_t> codes = current->Quantise(z);
  EXPECT_EQ(BuildCodebook(*current, {z, Ones(400), codes}, {}, &solo, &budget).status().code(),
            absl::StatusCode::kCancelled);
}

TEST(GroupSums, AddInTheOrderOfRanks) {
  RunAsGroup(3, [](Group* group) {
    // (1e16 + 1) - 1e16 is not 1 in another order.
    const double mine[] = {1e16, 1.0, -1e16};
    std::vector<double> sum = {mine[group->rank()], 1.0};
    ASSERT_TRUE(SumOverGroup(group, sum, DeadlineIn(std::chrono::seconds(10))).ok());
    EXPECT_EQ(sum[0], (1e16 + 1.0) - 1e16);
    EXPECT_EQ(sum[1], 3.0);
  });
}

TEST(GroupSums, WhoDiffersIsNamed) {
  RunAsGroup(3, [](Group* group) {
    const auto digest = AgreeOn(group, "codebook", group->rank() == 2 ? "b" : "a",
                                DeadlineIn(std::chrono::seconds(10)));
    EXPECT_EQ(digest.status().code(), absl::StatusCode::kInternal);
    EXPECT_NE(digest.status().message().find("workers 0 and 2"), std::string::npos);
  });
  SoloGroup solo;
  EXPECT_EQ(*AgreeOn(&solo, "codebook", "abc", DeadlineIn(std::chrono::seconds(1))),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(WorkBudget, TakesItsShare) {
  WorkBudget budget(0.25);
  const auto start = SteadyClock::now();
  volatile double x = 0;
  while (budget.cpu_seconds() < 0.05) {
    for (int i = 0; i < 1000; ++i) x = x + i;
    ASSERT_TRUE(budget.Spend().ok());
  }
  // At least: on a busy machine more.
  EXPECT_GE(SecondsSince(start), 0.9 * 0.05 / 0.25);
}

}  // namespace
}  // namespace savior
