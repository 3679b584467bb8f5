// A refresh of the codebook of a run with rows of prefixes (model.prefix_ngrams).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "launcher/bundle_export.h"
#include "launcher/refresh_command.h"
#include "launcher/refresh_request.h"
#include "launcher/run_inputs.h"
#include "tests/launcher/mpirun_job.h"
#include "tests/launcher/process.h"
#include "tests/launcher/refresh_run.h"
#include "worker/refresh/content_weights.h"
#include "worker/step_inputs.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;

constexpr std::chrono::seconds kJobLimit{240};

class PrefixRefresh : public RefreshSuite<PrefixRefresh> {
 public:
  static Config Named(const std::string& name) {
    Config config = DriftingRun(folder_->path(), name);
    config.model.prefix_ngrams = true;
    config.codebook.levels = 3;
    return config;
  }

 protected:
  using Rows = std::map<uint64_t, Row>;

  static Rows OfBuild(const Rows& rows, uint32_t build) {
    Rows some;
    for (const auto& [key, row] : rows) {
      if (IsOfBuild(key, build)) some[WithoutBuild(key)] = row;
    }
    return some;
  }

  // Of a content's row, of build 0.
  static std::vector<uint64_t> PrefixesIn(const Row& content, const Config& config,
                                          uint32_t version) {
    const ContentLayout layout = ContentLayout::Of(config);
    std::vector<uint64_t> keys;
    ForEachPrefix(0, std::span(content.weights).subspan(layout.codes(version), layout.levels),
                  static_cast<uint64_t>(config.codebook.codes),
                  [&](uint64_t key) { keys.push_back(key); });
    return keys;
  }

  // Of a run that ends at its switch: every row that the build in use has is the mean of rows of
  // the former one, weighted by the contents listed until it began, at step `began`.
  static void ExpectMeans(const Config& config, int64_t began) {
    const CodebookState state = StateOf(config);
    const Learned learned = LearnedBy(config);
    const Rows before = OfBuild(learned.tables.at("prefix"), state.previous_build);
    const Rows now = OfBuild(learned.tables.at("prefix"), state.build);
    const auto joint = JointOf(config, learned.tables.at("content"));
    size_t compared = 0, moved = 0;
    for (const auto& [key, parts] : joint) {
      double all = config.refresh.lambda;
      bool exists = false;
      std::vector<double> mean(static_cast<size_t>(config.encoder.dim));
      for (const auto& [from, weight] : parts) all += weight;
      for (const auto& [from, weight] : parts) {
        moved += from != key;
        if (!before.contains(from)) continue;
        exists = true;
        for (size_t d = 0; d < mean.size(); ++d) {
          mean[d] += weight / all * before.at(from).weights[d];
        }
      }
      ASSERT_EQ(now.contains(key), exists) << key;
      if (!exists) continue;
      ++compared;
      EXPECT_EQ(now.at(key).last_step, began) << "whenever it was made";
      for (size_t d = 0; d < mean.size(); ++d) {
        ASSERT_NEAR(now.at(key).weights[d], mean[d], 1e-6) << key;
      }
    }
    EXPECT_EQ(compared, now.size());
    EXPECT_GT(compared, 20u);
    EXPECT_GT(moved, 3u);
  }

 private:
  // now -> before -> weight.
  static std::map<uint64_t, std::map<uint64_t, double>> JointOf(const Config& config,
                                                                const Rows& contents) {
    std::map<uint64_t, std::map<uint64_t, double>> joint;
    const auto log = OpenOrPrepare(config);
    const auto inputs = RunInputs::Open(config);
    EXPECT_TRUE(log.ok() && inputs.ok());
    if (!log.ok() || !inputs.ok()) return joint;
    int64_t until = 0;  // of the last build
    for (const auto& event : EventsOf(config)) {
      if (event.at("state") == "BUILDING") until = event.at("data_until");
    }
    SoloGroup alone;
    WorkBudget budget(1.0);
    const auto weights =
        ContentWeights(**log, {inputs->periods.training.from, until}, &alone, &budget);
    EXPECT_TRUE(weights.ok()) << weights.status();
    const std::vector<uint64_t> keys = ContentKeys(**log);
    for (size_t c = 0; weights.ok() && c < keys.size(); ++c) {
      if ((*weights)[c] <= 0) continue;
      const auto from = PrefixesIn(contents.at(keys[c]), config, 0);
      const auto to = PrefixesIn(contents.at(keys[c]), config, 1);
      for (size_t p = 0; p < to.size(); ++p) joint[to[p]][from[p]] += (*weights)[c];
    }
    return joint;
  }
};

// The rows in the commit of the switch, against the definition on that commit's other rows: what
// was made beside training and what was made again at the switch are one.
TEST_F(PrefixRefresh, RowsAreTheMeansOfTheRowsAtTheSwitch) {
  Config config = WithRefresh(Named("at-the-switch"));
  config.train.max_steps = kRefreshSwitch;
  RunToTheEnd(config);
  EXPECT_THAT(StatesOf(config), ElementsAre("BUILDING", "ACTIVE"));
  const CodebookState state = StateOf(config);
  EXPECT_EQ(state.builds, 1u);
  EXPECT_EQ(state.build, 1u);
  EXPECT_EQ(state.previous_build, 0u);
  const nlohmann::json figures = EventsOf(config)[1].at("prefixes");
  const size_t rows = OfBuild(LearnedBy(config).tables.at("prefix"), 1).size();
  EXPECT_GT(figures.at("made"), rows / 2);
  EXPECT_LE(figures.at("made"), rows);
  EXPECT_GT(figures.at("again"), 0);
  ExpectMeans(config, kRefreshBegin);
}

// Made by two workers, and what both have pushed since made again.
TEST_F(PrefixRefresh, OfTwoWorkersTheyAreTheSameMeans) {
  Config config = WithRefresh(Named("two-workers"));
  config.train.max_steps = kRefreshSwitch;
  config.ps.ram_budget_mb = 64;
  const Ended ended = ChildProcess(MpirunJob(3, config), folder_->path()).Wait(kJobLimit);
  ASSERT_EQ(ended.code, 0) << ended.err;
  EXPECT_THAT(StatesOf(config), ElementsAre("BUILDING", "ACTIVE"));
  EXPECT_GT(EventsOf(config)[1].at("prefixes").at("again"), 0);
  ExpectMeans(config, kRefreshBegin);
}

// From a commit in the middle of a build, which is begun anew.
TEST_F(PrefixRefresh, OfARunStoppedWhileItBuilds) {
  constexpr int64_t kStop = kRefreshBegin + 3;
  Config config = WithRefresh(Named("stopped-in-a-build"));
  config.train.max_steps = kStop;
  RunToTheEnd(config);
  EXPECT_EQ(StateOf(config).version, 0u);
  EXPECT_EQ(StateOf(config).builds, 1u);
  config.train.max_steps = kStop + 1 + kRefreshSwitch - kRefreshBegin;
  RunToTheEnd(config, /*resume=*/true);
  EXPECT_THAT(StatesOf(config), ElementsAre("BUILDING", "BUILDING", "ACTIVE"));
  EXPECT_EQ(StateOf(config).builds, 2u);
  EXPECT_EQ(StateOf(config).build, 2u);
  ExpectMeans(config, kStop + 1);
}

TEST_F(PrefixRefresh, TwiceIsTheSameRunForAnyNumberOfShards) {
  Config config = WithRefresh(Named("shards"));
  config.ps.shards = 3;
  RunToTheEnd(config);
  ExpectSame(Once(), config);
}

TEST_F(PrefixRefresh, OfARunStoppedAtAnyStepIsBitIdentical) {
  for (const int64_t stop : {kRefreshBegin - 1, kRefreshSwitch, kRefreshSwitch + 9}) {
    SCOPED_TRACE(stop);
    const Config config = StoppedAndResumed(stop);
    ExpectSame(Once(), config);
  }
}

// What a build that was given up has written is of no use to the next one, nor in its way.
TEST_F(PrefixRefresh, EveryBuildHasRowsOfItsOwn) {
  Config config = WithRefresh(Named("given-up"));
  config.refresh.min_preserved_r2 = 1;
  config.train.max_steps = kRefreshSwitch + 3;
  RunToTheEnd(config);
  ASSERT_THAT(StatesOf(config), ::testing::Contains("ABORTED"));
  const uint32_t given_up = StateOf(config).builds;
  EXPECT_EQ(given_up, 1u) << "not again and again";
  EXPECT_EQ(StateOf(config).build, 0u);
  EXPECT_FALSE(OfBuild(LearnedBy(config).tables.at("prefix"), 1).empty()) << "it wrote some";
  Config never = Named("given-up-never");
  never.train.max_steps = kRefreshSwitch + 3;
  RunToTheEnd(never);
  EXPECT_EQ(ResultOf(config), ResultOf(never));
  EXPECT_EQ(InUse(config), InUse(never));
  config.refresh.min_preserved_r2 = -10;
  config.train.max_steps = 0;
  RunToTheEnd(config, /*resume=*/true);
  const CodebookState state = StateOf(config);
  EXPECT_EQ(state.version, 1u);
  EXPECT_EQ(state.build, state.builds);
  EXPECT_GT(state.build, given_up);
  EXPECT_FALSE(InUse(config).tables.at("prefix").empty());
}

// There are keys for so many builds.
TEST_F(PrefixRefresh, NoNumberIsUsedTwice) {
  Config config = Named("many-builds");
  config.train.max_steps = kRefreshBegin;
  RunToTheEnd(config);
  const fs::path commits = fs::path(config.run.dir) / "commits";
  const auto spent = RepublishCommit(commits, kRefreshBegin, [](CommitManifest* manifest) {
    manifest->codebook.builds = kMostBuilds;
  });
  ASSERT_TRUE(spent.ok()) << spent.status();
  std::ostringstream out;
  const absl::Status refused = RefreshCodebook({config.run.dir, {}, false, false}, out);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), ::testing::HasSubstr("65535 codebooks"));
  ASSERT_TRUE(AskForRefresh(config.run.dir, {RefreshRequest::What::kRefresh, 1}).ok());
  config.train.max_steps = kRefreshSwitch;
  RunToTheEnd(config, /*resume=*/true);
  EXPECT_THAT(StatesOf(config), ElementsAre("REFUSED"));
  EXPECT_EQ(StateOf(config).version, 0u);
}

TEST_F(PrefixRefresh, OfARunThatStandsStill) {
  Config config = Named("standing");
  config.train.max_steps = kRefreshSwitch;
  RunToTheEnd(config);
  std::ostringstream out;
  for (const uint32_t version : {1u, 2u}) {
    const absl::Status done =
        RefreshCodebook({config.run.dir, {"refresh.probation_steps=0"}, false, false}, out);
    ASSERT_TRUE(done.ok()) << done;
    const CodebookState state = StateOf(config);
    EXPECT_EQ(state.version, version);
    EXPECT_EQ(state.build, version);
    EXPECT_EQ(state.previous_build, version - 1);
    EXPECT_FALSE(InUse(config).tables.at("prefix").empty());
  }
  config.train.max_steps = 0;
  RunToTheEnd(config, /*resume=*/true);
  EXPECT_EQ(StateOf(config).version, 2u);
}

TEST_F(PrefixRefresh, RolledBackItIsTheRunThatNeverSwitched) {
  Config config = WithRefresh(Named("rolled-back"));
  RunToTheEnd(config);
  ASSERT_TRUE(RollBackCodebook(config.run.dir, 0, Anyhow).ok());
  EXPECT_EQ(StateOf(config).build, 0u);
  EXPECT_EQ(StateOf(config).builds, 1u) << "its number is never used again";
  config.refresh.at_step = 0;
  RunToTheEnd(config, /*resume=*/true);
  EXPECT_EQ(ResultOf(config), ResultOf(Never()));
  EXPECT_EQ(InUse(config), InUse(Never()));
}

TEST_F(PrefixRefresh, ArmsOfTheAblation) {
  for (const std::string remap : {"index", "zero", "conditional_mean"}) {
    SCOPED_TRACE(remap);
    Config config = WithRefresh(Named("remap-" + remap));
    config.refresh.remap = remap;
    config.train.max_steps = kRefreshSwitch;
    RunToTheEnd(config);
    ASSERT_EQ(StateOf(config).version, 1u);
    const Rows rows = LearnedBy(config).tables.at("prefix");
    const Rows before = OfBuild(rows, 0), now = OfBuild(rows, 1);
    EXPECT_EQ(now.empty(), remap == "zero");
    for (const auto& [key, row] : now) {
      if (remap == "index") EXPECT_EQ(row.weights, before.at(key).weights);
    }
  }
}

TEST_F(PrefixRefresh, ArmSidLearnsAndKeepsThem) {
  Config config = WithRefresh(Named("sid"));
  config.model.arm = "sid";
  RunToTheEnd(config);
  EXPECT_EQ(StateOf(config).version, 1u);
  EXPECT_GT(InUse(config).tables.at("prefix").size(), 20u);
}

// Rows come late and go again, as everywhere; what a refresh promises holds all the same.
TEST_F(PrefixRefresh, WithAdmissionAndEviction) {
  const auto forgetful = [](const std::string& name) {
    Config config = Named("forgetful-" + name);
    config.ps.admission = "count";
    config.ps.admission_count = 2;
    config.ps.eviction_idle_steps = 30;
    config.ps.eviction_floor_rows = 50;
    config.ps.eviction_max_share_per_minute = 0.5;
    config.ps.steps_per_minute = 1;
    return config;
  };
  const Config never = forgetful("never"), once = WithRefresh(forgetful("once"));
  RunToTheEnd(never);
  RunToTheEnd(once);
  const Rows rows = LearnedBy(once).tables.at("prefix");
  ASSERT_EQ(StateOf(once).build, 1u);
  EXPECT_TRUE(OfBuild(rows, 0).empty()) << "nobody has pushed them since the switch";
  EXPECT_GT(OfBuild(rows, 1).size(), 20u);
  const size_t kept = LearnedBy(never).tables.at("prefix").size();
  EXPECT_GT(kept, 20u);
  EXPECT_LT(kept, LearnedBy(Never()).tables.at("prefix").size());
  for (const int64_t stop : {kRefreshSwitch, kRefreshSwitch + 9}) {
    SCOPED_TRACE(stop);
    Config config = WithRefresh(forgetful("stopped-at-" + std::to_string(stop)));
    config.ps.shards = 3;
    StopAndResume(config, stop);
    ExpectSame(once, config);
  }
  Config refused = WithRefresh(forgetful("refused"));
  refused.refresh.min_preserved_r2 = 1;
  RunToTheEnd(refused);
  ASSERT_THAT(StatesOf(refused), ::testing::Contains("ABORTED"));
  EXPECT_EQ(ResultOf(refused), ResultOf(never));
  EXPECT_EQ(InUse(refused), InUse(never));
  Config back = once;
  ASSERT_TRUE(RollBackCodebook(back.run.dir, 0, Anyhow).ok());
  back.refresh.at_step = 0;
  RunToTheEnd(back, /*resume=*/true);
  EXPECT_EQ(ResultOf(back), ResultOf(never));
  EXPECT_EQ(InUse(back), InUse(never));
}

TEST_F(PrefixRefresh, BundlesHaveTheRowsInUse) {
  const fs::path out = folder_->path() / "bundles";
  const auto bundle = ExportBundle({.from = Once().run.dir, .out = out});
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  const auto verified = VerifyBundle(out, bundle->version(), Digests::kAll);
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_LT(verified->parity.max_difference, 1e-5);
}

}  // namespace
}  // namespace savior
