// A run's codebook goes over to its next version while it trains: what comes of it, and what does
// not.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <vector>

#include "launcher/commit.h"
#include "launcher/refresh_command.h"
#include "launcher/refresh_request.h"
#include "launcher/run_refresh.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/refresh_run.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kBegin = kRefreshBegin, kSwitch = kRefreshSwitch;

class Refresh : public RefreshSuite<Refresh> {
 public:
  static Config Named(const std::string& name) { return DriftingRun(folder_->path(), name); }

 protected:
  static void Ask(const Config& config, RefreshRequest::What what, uint32_t version) {
    fs::create_directories(config.run.dir);
    ASSERT_TRUE(AskForRefresh(config.run.dir, {what, version}).ok());
  }
};

TEST_F(Refresh, GoesItsWay) {
  EXPECT_THAT(StatesOf(Once()), ElementsAre("BUILDING", "ACTIVE"));
  const CodebookState state = StateOf(Once());
  EXPECT_EQ(state.version, 1u);
  EXPECT_EQ(state.since_step, kSwitch);
  EXPECT_TRUE(state.probation);
  const nlohmann::json active = EventsOf(Once())[1];
  EXPECT_LT(active.at("rq_mse").get<double>(), 1.1 * active.at("rq_mse_before").get<double>());
  EXPECT_EQ(active.at("sha256").get<std::string>().size(), 64u);
  EXPECT_GT(active.at("preserved_r2").get<double>(), 0.0);
  EXPECT_TRUE(active.contains("replay_auc"));
  EXPECT_EQ(EventsOf(Once())[0].at("why"), "refresh.at_step");
  EXPECT_GE(active.at("time").get<int64_t>(), EventsOf(Once())[0].at("time").get<int64_t>());
  // It did change something, and only from its step on.
  EXPECT_FALSE(LearnedBy(Once()) == LearnedBy(Never()));
}

TEST_F(Refresh, TwiceIsTheSameRunForAnyNumberOfShards) {
  for (const int64_t shards : {1, 3}) {
    Config config = WithRefresh(Named("shards-" + std::to_string(shards)));
    config.ps.shards = shards;
    RunToTheEnd(config);
    ExpectSame(Once(), config);
  }
}

// Before it, while it builds, at the switch and after it.
TEST_F(Refresh, OfARunStoppedAtAnyStepIsBitIdentical) {
  for (const int64_t stop : {kBegin - 1, kBegin, kBegin + 3, kSwitch, kSwitch + 1, kSwitch + 9}) {
    SCOPED_TRACE(stop);
    Config config = WithRefresh(Named("stopped-at-" + std::to_string(stop)));
    config.train.max_steps = stop;
    RunToTheEnd(config);
    if (stop >= kBegin && stop < kSwitch) {
      // What was being built is given up, and begins again at the first step after.
      EXPECT_EQ(StateOf(config).version, 0u);
      EXPECT_EQ(InUse(config).tables, [&] {
        Config never = Named("never-" + std::to_string(stop));
        never.train.max_steps = stop;
        RunToTheEnd(never);
        return InUse(never).tables;
      }());
      continue;
    }
    config.train.max_steps = 0;
    RunToTheEnd(config, /*resume=*/true);
    ExpectSame(Once(), config);
  }
}

TEST_F(Refresh, AGateThatIsNotPassedLeavesNoTrace) {
  struct Gate {
    const char* name;
    std::function<void(Config::Refresh&)> close;
    const char* why;
  };
  const std::vector<Gate> gates = {
      {"r2", [](auto& r) { r.min_preserved_r2 = 1; }, "refresh.min_preserved_r2"},
      {"error", [](auto& r) { r.max_error_ratio = 0.1; }, "refresh.max_error_ratio"},
      {"churn", [](auto& r) { r.max_churn = 0; }, "refresh.max_churn"},
      {"auc", [](auto& r) { r.max_auc_loss = -100; }, "refresh.max_auc_loss"},
  };
  for (const Gate& gate : gates) {
    SCOPED_TRACE(gate.name);
    Config config = WithRefresh(Named(std::string("gate-") + gate.name));
    gate.close(config.refresh);
    config.train.max_steps = kSwitch + 3;
    RunToTheEnd(config);
    ASSERT_THAT(StatesOf(config), ::testing::Contains("ABORTED"));
    EXPECT_THAT(EventsOf(config)[1].at("why").get<std::string>(), HasSubstr(gate.why));
    EXPECT_EQ(EventsOf(config)[1].at("version"), 1) << "the one that was not to be";
    Config never = Named(std::string("no-gate-") + gate.name);
    never.train.max_steps = kSwitch + 3;
    RunToTheEnd(never);
    EXPECT_EQ(ResultOf(config), ResultOf(never));
    EXPECT_EQ(InUse(config), InUse(never));
  }
}

// Of eight contents each row can be made to fit, and then it fits no others.
TEST_F(Refresh, DistillationThatFitsItsSampleOnlyIsNotTaken) {
  const auto preserved_by = [](const std::string& remap, int64_t sample, double lr) {
    Config config = WithRefresh(Named(remap + "-of-" + std::to_string(sample)));
    config.refresh.remap = remap;
    config.refresh.sample = sample;
    config.refresh.distil_lr = lr;
    config.train.max_steps = kSwitch;
    RunToTheEnd(config);
    return EventsOf(config).back().at("preserved_r2").get<double>();
  };
  EXPECT_EQ(preserved_by("distilled", 16, 0.5), preserved_by("conditional_mean", 16, 0.5));
  EXPECT_GT(preserved_by("distilled", 4096, 2e-4), preserved_by("conditional_mean", 4096, 2e-4));
}

TEST_F(Refresh, RolledBackItIsTheRunThatNeverSwitched) {
  Config config = WithRefresh(Named("rolled-back"));
  RunToTheEnd(config);
  ASSERT_EQ(StateOf(config).version, 1u);
  ASSERT_TRUE(RollBackCodebook(config.run.dir, 0, Anyhow).ok());
  EXPECT_EQ(StateOf(config).version, 0u);
  EXPECT_EQ(NewestCommit(fs::path(config.run.dir) / "commits")->manifest.step, kSwitch);
  ASSERT_TRUE(RollBackCodebook(config.run.dir, 0, Anyhow).ok()) << "twice is once";
  config.refresh.at_step = 0;
  RunToTheEnd(config, /*resume=*/true);
  EXPECT_EQ(ResultOf(config), ResultOf(Never()));
  EXPECT_EQ(InUse(config), InUse(Never()));
}

TEST_F(Refresh, WhatCannotBeRolledBackIsRefused) {
  EXPECT_EQ(RollBackCodebook(Never().run.dir, 5, Anyhow).code(),
            absl::StatusCode::kFailedPrecondition);
  std::ostringstream out;
  EXPECT_THAT(std::string(RefreshCodebook({Never().run.dir, {}, true, false}, out).message()),
              HasSubstr("nothing to go back to"));
  EXPECT_EQ(RefreshCodebook({"/nowhere", {}, false, false}, out).code(),
            absl::StatusCode::kNotFound);
  Config retired = WithRefresh(Named("retired"));
  retired.refresh.probation_steps = 5;
  RunToTheEnd(retired);
  EXPECT_THAT(StatesOf(retired), ElementsAre("BUILDING", "ACTIVE", "RETIRED"));
  EXPECT_FALSE(StateOf(retired).probation);
  EXPECT_EQ(RollBackCodebook(retired.run.dir, 0, Anyhow).code(),
            absl::StatusCode::kFailedPrecondition);
  // Nor to where the run could not go on from: nothing is deleted for it.
  const fs::path commits = fs::path(Once().run.dir) / "commits";
  const std::vector<fs::path> before = ListCommits(commits);
  int64_t asked_of = -1;
  const absl::Status refused = RollBackCodebook(Once().run.dir, 0, [&](const Commit& at) {
    asked_of = at.manifest.step;
    return absl::FailedPreconditionError("other data");
  });
  EXPECT_EQ(refused.message(), "other data");
  EXPECT_EQ(asked_of, kSwitch);
  EXPECT_EQ(ListCommits(commits), before);
  EXPECT_EQ(StateOf(Once()).version, 1u);
}

TEST_F(Refresh, ByHandWhileItTrains) {
  Config config = Named("by-hand");
  config.refresh.probation_steps = 3;
  config.train.epochs = 1000;
  Ask(config, RefreshRequest::What::kRefresh, 1);
  std::atomic<bool> stop = false;
  RunOptions options;
  options.stop = &stop;
  options.after_step = [&](int64_t, const StepFigures&) {
    const std::vector<std::string> states = StatesOf(config);
    stop = !states.empty() && states.back() == "RETIRED" && !*ReadRefreshRequest(config.run.dir);
  };
  EXPECT_EQ(TrainQuietly(config, options).status().code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(StatesOf(config), ElementsAre("BUILDING", "PREPARED", "ACTIVE", "RETIRED"));
  EXPECT_EQ(EventsOf(config)[0].at("why"), "by hand");
  EXPECT_EQ(StateOf(config).version, 1u);
  EXPECT_FALSE(*ReadRefreshRequest(config.run.dir)) << "answered";
}

TEST_F(Refresh, ByHandOfARunThatStandsStill) {
  Config config = Named("standing");
  config.train.max_steps = kSwitch;
  RunToTheEnd(config);
  std::ostringstream out;
  for (const uint32_t version : {1u, 2u}) {
    const absl::Status done =
        RefreshCodebook({config.run.dir, {"refresh.probation_steps=0"}, false, false}, out);
    ASSERT_TRUE(done.ok()) << done;
    EXPECT_EQ(StateOf(config).version, version);
    EXPECT_EQ(StateOf(config).since_step, kSwitch);
  }
  config.train.max_steps = 0;
  RunToTheEnd(config, /*resume=*/true);
  EXPECT_EQ(StateOf(config).version, 2u);
  // A gate keeps it as it is.
  const absl::Status refused =
      RefreshCodebook({config.run.dir, {"refresh.min_preserved_r2=1"}, false, false}, out);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("min_preserved_r2"));
  EXPECT_EQ(StateOf(config).version, 2u);
}

TEST_F(Refresh, RollbackByHandEndsTheRunToGoOnFromTheSwitch) {
  Config config = WithRefresh(Named("rollback-by-hand"));
  config.train.max_steps = kSwitch + 4;
  RunToTheEnd(config);
  ASSERT_EQ(StateOf(config).version, 1u);
  Ask(config, RefreshRequest::What::kRollback, 0);
  config.train.max_steps = 0;
  config.refresh.at_step = 0;
  // Found at the start: nothing is trained on the version that is not wanted.
  RunToTheEnd(config, /*resume=*/true);
  EXPECT_EQ(StateOf(config).version, 0u);
  EXPECT_FALSE(*ReadRefreshRequest(config.run.dir));
  EXPECT_EQ(InUse(config), InUse(Never()));
  EXPECT_EQ(EventsOf(config).back().at("state"), "ROLLED_BACK");
  EXPECT_EQ(EventsOf(config).back().at("step"), kSwitch);
}

TEST_F(Refresh, RollbackWhileItTrains) {
  Config config = WithRefresh(Named("rollback-live"));
  config.refresh.at_step = 0;
  config.refresh.switch_after_steps = 3;
  Ask(config, RefreshRequest::What::kRefresh, 1);
  RunOptions options;
  bool asked = false;
  options.after_step = [&](int64_t, const StepFigures&) {
    if (asked || *ReadRefreshRequest(config.run.dir)) return;  // not answered yet
    asked = AskForRefresh(config.run.dir, {RefreshRequest::What::kRollback, 0}).ok();
  };
  config.train.epochs = 20;  // until the second look for a request
  config.train.max_steps = 600;
  Config never = Never();
  never.run.dir += "-long";
  never.train.epochs = config.train.epochs;
  never.train.max_steps = config.train.max_steps;
  const auto result = TrainQuietly(config, options);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_TRUE(asked);
  RunToTheEnd(never);
  EXPECT_EQ(StateOf(config).version, 0u);
  EXPECT_EQ(ResultOf(config), ResultOf(never));
  EXPECT_EQ(InUse(config), InUse(never));
}

TEST_F(Refresh, ByDrift) {
  Config config = Named("drift");
  config.refresh.on_drift = true;
  config.refresh.max_rq_mse_ratio = 1.05;
  config.refresh.probation_steps = 0;
  config.refresh.switch_after_steps = 3;
  RunToTheEnd(config);
  EXPECT_THAT(StatesOf(config), ::testing::Contains("ACTIVE"));
  EXPECT_THAT(EventsOf(config)[0].at("why").get<std::string>(),
              ::testing::StartsWith("drift: quantisation error"));
  config = Named("no-drift");
  config.refresh.on_drift = true;
  config.refresh.max_rq_mse_ratio = 100;
  config.refresh.max_perplexity_drop = 1;
  RunToTheEnd(config);
  EXPECT_TRUE(EventsOf(config).empty());
  EXPECT_EQ(ResultOf(config), ResultOf(Never()));
}

TEST_F(Refresh, ARunWithoutCodesRefuses) {
  Config config = Named("base");
  config.model.arm = "base";
  config.codebook.learn_until = "";
  config.train.max_steps = 30;
  Ask(config, RefreshRequest::What::kRefresh, 1);
  RunToTheEnd(config);
  EXPECT_THAT(StatesOf(config), ElementsAre("REFUSED"));
  EXPECT_FALSE(*ReadRefreshRequest(config.run.dir));
}

TEST_F(Refresh, RequestsAreOneAtATime) {
  const TempFolder run;
  EXPECT_FALSE(*ReadRefreshRequest(run.path()));
  const RefreshRequest first = {RefreshRequest::What::kRefresh, 1};
  ASSERT_TRUE(AskForRefresh(run.path(), first).ok());
  ASSERT_TRUE(AskForRefresh(run.path(), first).ok()) << "twice is once";
  EXPECT_EQ(**ReadRefreshRequest(run.path()), first);
  EXPECT_EQ(AskForRefresh(run.path(), {RefreshRequest::What::kRollback, 0}).code(),
            absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(RemoveRefreshRequest(run.path()).ok());
  ASSERT_TRUE(RemoveRefreshRequest(run.path()).ok());
  std::ofstream(run.path() / "refresh.request") << "{\"what\": \"dance\"}";
  EXPECT_EQ(ReadRefreshRequest(run.path()).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace savior
