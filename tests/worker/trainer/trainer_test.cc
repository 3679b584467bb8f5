#include "worker/trainer.h"

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "tests/worker/trainer/clocked_store.h"
#include "tests/worker/trainer/small_world.h"
#include "tests/worker/trainer/thread_allreduce.h"

namespace savior {
namespace {

constexpr int64_t kSteps = 8;

// One run of W workers as threads over one store.
struct Trained {
  std::vector<std::vector<StepFigures>> figures;  // by worker
  std::vector<uint64_t> digests;
  std::vector<std::vector<size_t>> lengths;
  std::vector<float> dense;
  std::map<std::pair<uint32_t, uint64_t>, std::vector<float>> rows;
  std::vector<int64_t> pulled_steps;  // of worker 0
  int64_t applied = 0;
  size_t unfinished = 0;
};

class TrainerTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    at::set_num_threads(1);
    folder_ = new TempFolder;
    log_ = MakeSmallLog(*folder_).release();
  }
  static void TearDownTestSuite() {
    delete log_;
    delete folder_;
  }

  static Config ShortRun() {
    Config config = SmallModel();
    config.train.max_steps = kSteps;
    config.ps.timeout_s = config.cluster.allreduce_timeout_s = 20;
    return config;
  }

  // `wishes`: of a worker, with a step.
  static Trained Train(const Config& config, uint32_t workers,
                       const std::function<StepWishes(uint32_t, int64_t)>& wishes = {}) {
    Trained run;
    run.figures.resize(workers);
    run.digests.resize(workers);
    run.lengths.resize(workers);
    ClockedStore store(config, workers);
    const auto sum = std::make_shared<ThreadSum>(workers);
    const auto work = [&](uint32_t w) {
      ThreadAllreduce allreduce(sum, w);
      auto trainer = Trainer::Create(config, log_, &store.port(w), kWholeLog, &allreduce);
      ASSERT_TRUE(trainer.ok()) << trainer.status();
      bool stop = false;
      while ((*trainer)->step() < (*trainer)->total_steps() && !stop) {
        const auto figures =
            (*trainer)->Step(wishes ? wishes(w, (*trainer)->step()) : StepWishes{});
        ASSERT_TRUE(figures.ok()) << figures.status();
        run.figures[w].push_back(*figures);
        stop = figures->wishes.stop;
      }
      run.digests[w] = (*trainer)->Digest();
      run.lengths[w] = allreduce.lengths();
      if (w == 0) run.dense = (*trainer)->dense().weights();
    };
    std::vector<std::thread> threads;
    for (uint32_t w = 0; w < workers; ++w) threads.emplace_back(work, w);
    for (std::thread& thread : threads) thread.join();
    run.rows = store.learned();
    run.applied = store.applied();
    run.unfinished = store.unfinished();
    run.pulled_steps = store.pulled_steps(0);
    return run;
  }

  static TempFolder* folder_;
  static TrainingLog* log_;
};
TempFolder* TrainerTest::folder_ = nullptr;
TrainingLog* TrainerTest::log_ = nullptr;

void ExpectNear(const std::vector<float>& a, const std::vector<float>& b, float tolerance) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], tolerance) << i;
}

TEST_F(TrainerTest, WorkersTrainAsOneWould) {
  const Config config = ShortRun();
  const Trained one = Train(config, 1);
  ASSERT_EQ(one.figures[0].size(), static_cast<size_t>(kSteps));
  for (const uint32_t workers : {2u, 3u}) {
    SCOPED_TRACE(workers);
    const Trained many = Train(config, workers);
    for (uint32_t w = 0; w < workers; ++w) {
      ASSERT_EQ(many.figures[w].size(), one.figures[0].size());
      EXPECT_EQ(many.digests[w], many.digests[0]) << "dense weights differ between workers";
      EXPECT_EQ(many.lengths[w], many.lengths[0]);
      for (size_t s = 0; s < one.figures[0].size(); ++s) {
        const StepFigures &a = many.figures[w][s], &b = one.figures[0][s];
        EXPECT_EQ(a.requests, b.requests);
        EXPECT_EQ(a.rows, b.rows);
        EXPECT_NEAR(a.losses.ctr, b.losses.ctr, 1e-4 * b.losses.ctr) << "step " << s;
        EXPECT_NEAR(a.losses.ctcvr, b.losses.ctcvr, 1e-4 * b.losses.ctcvr) << "step " << s;
      }
    }
    // Adam magnifies the last bits of tiny gradients.
    ExpectNear(many.dense, one.dense, 1e-3f);
    ASSERT_EQ(many.rows.size(), one.rows.size());
    for (const auto& [key, row] : one.rows) ExpectNear(many.rows.at(key), row, 1e-4f);
    EXPECT_EQ(many.applied, kSteps);
    EXPECT_EQ(many.unfinished, 0u);
  }
}

TEST_F(TrainerTest, RunsOfManyWorkersAreEqualBitForBit) {
  Config config = ShortRun();
  config.train.requests_per_batch = 2;  // of three workers one has nothing to read
  const Trained a = Train(config, 3), b = Train(config, 3);
  EXPECT_EQ(a.digests, b.digests);
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.applied, kSteps);
  EXPECT_THAT(a.lengths[0], testing::Each(testing::Gt(0u)));
}

TEST_F(TrainerTest, AnAllreduceOfOneChangesNothing) {
  const Config config = ShortRun();
  const Trained with = Train(config, 1);
  ClockedStore store(config, 1);
  auto trainer = Trainer::Create(config, log_, &store.port(0), kWholeLog);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  for (int64_t s = 0; s < kSteps; ++s) {
    const auto figures = (*trainer)->Step();
    ASSERT_TRUE(figures.ok()) << figures.status();
    EXPECT_EQ(figures->losses.ctr, with.figures[0][static_cast<size_t>(s)].losses.ctr);
    EXPECT_FALSE(figures->wishes.stop);
  }
  EXPECT_EQ((*trainer)->Digest(), with.digests[0]);
  EXPECT_EQ(store.learned(), with.rows);
}

TEST_F(TrainerTest, AllStopAfterTheSameStepWhoeverAsks) {
  const Trained run = Train(ShortRun(), 3, [](uint32_t w, int64_t step) -> StepWishes {
    return {.stop = w == 1 && step == 2};
  });
  for (uint32_t w = 0; w < 3; ++w) {
    ASSERT_EQ(run.figures[w].size(), 3u);
    EXPECT_FALSE(run.figures[w][1].wishes.stop);
    EXPECT_TRUE(run.figures[w][2].wishes.stop);
    EXPECT_FALSE(run.figures[w][2].wishes.commit);
  }
  EXPECT_EQ(run.applied, 3);
  EXPECT_EQ(run.unfinished, 0u);  // the pull of step 3, too, that nobody will use
}

TEST_F(TrainerTest, AWishToCommitReachesAllAndChangesNoBit) {
  const Config config = ShortRun();
  const Trained plain = Train(config, 3);
  const Trained run = Train(config, 3, [](uint32_t w, int64_t step) -> StepWishes {
    return {.commit = w == 0 && step % 2 == 1};
  });
  for (uint32_t w = 0; w < 3; ++w) {
    ASSERT_EQ(run.figures[w].size(), static_cast<size_t>(kSteps));
    for (size_t s = 0; s < run.figures[w].size(); ++s) {
      EXPECT_EQ(run.figures[w][s].wishes.commit, s % 2 == 1) << "worker " << w << ", step " << s;
      EXPECT_FALSE(run.figures[w][s].wishes.stop);
    }
  }
  EXPECT_EQ(run.digests, plain.digests);
  EXPECT_EQ(run.rows, plain.rows);
}

TEST_F(TrainerTest, PullsAreStartedInOrderAndNoFurtherThanTheRun) {
  for (const int64_t staleness : {0, 1, 3, 64, -1}) {
    SCOPED_TRACE(staleness);
    Config config = ShortRun();
    config.cluster.staleness = staleness;
    const Trained run = Train(config, 2);
    std::vector<int64_t> steps(kSteps);
    for (int64_t s = 0; s < kSteps; ++s) steps[static_cast<size_t>(s)] = s;
    EXPECT_EQ(run.pulled_steps, steps);
    EXPECT_EQ(run.applied, kSteps);
    EXPECT_EQ(run.unfinished, 0u);
    EXPECT_EQ(run.digests[0], run.digests[1]);
    EXPECT_LT(run.figures[0].back().losses.ctr, 1.0);
  }
}

TEST_F(TrainerTest, SeekForgetsWhatIsUnderWay) {
  const Config config = ShortRun();
  ClockedStore store(config, 1);
  auto trainer = Trainer::Create(config, log_, &store.port(0), kWholeLog);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  ASSERT_TRUE((*trainer)->Step().ok());
  ASSERT_TRUE((*trainer)->Settle().ok());
  ASSERT_TRUE((*trainer)->Seek(1).ok());
  EXPECT_EQ(store.unfinished(), 0u);
  EXPECT_EQ((*trainer)->step(), 1);
  const auto figures = (*trainer)->Step();
  ASSERT_TRUE(figures.ok()) << figures.status();
  EXPECT_GT(figures->seconds.compute, 0.0);
  EXPECT_THAT(store.pulled_steps(0), testing::ElementsAre(0, 1, 1, 2));
}

TEST_F(TrainerTest, AMissingWorkerEndsTheStep) {
  Config config = ShortRun();
  config.cluster.allreduce_timeout_s = 0.2;
  ClockedStore store(config, 2);
  ThreadAllreduce allreduce(std::make_shared<ThreadSum>(2), 0);
  auto trainer = Trainer::Create(config, log_, &store.port(0), kWholeLog, &allreduce);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  const auto figures = (*trainer)->Step();
  EXPECT_TRUE(absl::IsDeadlineExceeded(figures.status())) << figures.status();
  EXPECT_THAT(std::string(figures.status().message()), testing::StartsWith("step 0"));
  // The second worker comes too late, but the pull of step 1 is answered.
  ASSERT_TRUE(store.port(1).Push(0, {}, Deadline::max()).ok());
}

TEST_F(TrainerTest, SharesOfAPredictionAreThatOfOneWorkerBitForBit) {
  Config config = ShortRun();
  config.eval.requests_per_batch = 7;
  ClockedStore store(config, 1);
  auto trainer = Trainer::Create(config, log_, &store.port(0), kWholeLog);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  ASSERT_TRUE((*trainer)->Step().ok());
  for (const Period& period : {kWholeLog, Period{}}) {
    const auto whole = (*trainer)->Predict(period);
    ASSERT_TRUE(whole.ok()) << whole.status();
    for (const int64_t workers : {1, 2, 3, 50}) {
      std::vector<PredictionShare> shares;
      for (int64_t w = 0; w < workers; ++w) {
        const auto share = (*trainer)->PredictShare(period, w, workers);
        ASSERT_TRUE(share.ok()) << share.status();
        auto decoded = DecodeShare(EncodeShare(*share));
        ASSERT_TRUE(decoded.ok()) << decoded.status();
        shares.push_back(*std::move(decoded));
      }
      const auto merged = MergeShares(shares);
      ASSERT_TRUE(merged.ok()) << merged.status();
      EXPECT_TRUE(*merged == *whole) << workers << " workers";
    }
  }
}

}  // namespace
}  // namespace savior
