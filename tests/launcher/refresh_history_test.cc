#include "launcher/refresh_history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace savior {
namespace {

using Json = nlohmann::ordered_json;
using Fate = CodebookRefresh::Fate;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

Json Building(int64_t step, uint32_t version, const std::string& why = "by hand") {
  return {{"step", step},        {"state", "BUILDING"}, {"version", version},
          {"time", 1000 + step}, {"why", why},          {"stood_still_ms", 0.5}};
}

Json Active(int64_t step, uint32_t version) {
  return {
      {"step", step},
      {"state", "ACTIVE"},
      {"version", version},
      {"time", 1000 + step},
      {"rq_mse_before", 0.5},
      {"rq_mse", 0.25},
      {"levels", {{{"perplexity", 6.5}, {"dead", 2}, {"largest_share", 0.5}, {"churn", 0.125}}}},
      {"preserved_r2", 0.75},
      {"replay_auc", {{"before", 0.7}, {"after", 0.8}}},
      {"stood_still_ms", 3}};
}

Json Retired(int64_t step, uint32_t version) {
  return {{"step", step}, {"state", "RETIRED"}, {"version", version}};
}

Json Aborted(int64_t step, uint32_t version) {
  return {{"step", step}, {"state", "ABORTED"}, {"version", version}, {"why", "a gate"}};
}

Json RolledBack(int64_t step, uint32_t version) {
  return {{"step", step}, {"state", "ROLLED_BACK"}, {"version", version}};
}

CommitManifest CommitAt(int64_t step, const CodebookState& state) {
  CommitManifest manifest;
  manifest.step = step;
  manifest.codebook = state;
  return manifest;
}

// Fates in the order of beginnings, behind that of version 0.
std::vector<Fate> FatesOf(const std::vector<Json>& lines, const CommitManifest* newest = nullptr) {
  const RefreshHistory history = TellRefreshes(lines, newest);
  std::vector<Fate> fates = {history.first};
  for (const CodebookRefresh& r : history.refreshes) fates.push_back(r.fate);
  return fates;
}

TEST(RefreshHistory, OfNoLinesIsTheFirstVersion) {
  EXPECT_THAT(FatesOf({}), ElementsAre(Fate::kActive));
  const CommitManifest newest = CommitAt(10, {});
  EXPECT_THAT(FatesOf({}, &newest), ElementsAre(Fate::kActive));
}

TEST(RefreshHistory, FollowsARefreshThroughItsStates) {
  std::vector<Json> lines = {Building(10, 1)};
  EXPECT_THAT(FatesOf(lines), ElementsAre(Fate::kActive, Fate::kBuilding));
  lines.push_back(Active(20, 1));
  EXPECT_THAT(FatesOf(lines), ElementsAre(Fate::kKept, Fate::kProbation));
  lines.push_back(Retired(30, 1));
  EXPECT_THAT(FatesOf(lines), ElementsAre(Fate::kRetired, Fate::kActive));
  lines.push_back(Building(40, 2));
  lines.push_back(Active(50, 2));
  EXPECT_THAT(FatesOf(lines), ElementsAre(Fate::kRetired, Fate::kKept, Fate::kProbation));
  lines.push_back(Retired(60, 2));
  EXPECT_THAT(FatesOf(lines), ElementsAre(Fate::kRetired, Fate::kRetired, Fate::kActive));
}

TEST(RefreshHistory, KeepsWhatTheLinesSay) {
  const RefreshHistory history =
      TellRefreshes({Building(10, 1, "drift: much"), Active(20, 1)}, nullptr);
  ASSERT_EQ(history.refreshes.size(), 1u);
  const CodebookRefresh& r = history.refreshes[0];
  EXPECT_EQ(r.version, 1u);
  EXPECT_EQ(r.why, "drift: much");
  EXPECT_EQ(r.switched, 20);
  ASSERT_EQ(r.events.size(), 2u);
  EXPECT_EQ(r.events[0].state, "BUILDING");
  EXPECT_EQ(r.events[0].time, 1010);
  EXPECT_EQ(r.events[1].stood_still_ms, 3);
  ASSERT_EQ(r.outcome.levels.size(), 1u);
  EXPECT_EQ(r.outcome.levels[0].churn, 0.125);
  EXPECT_EQ(Utilisation(r.outcome.levels[0], 8), 0.75);
  EXPECT_EQ(r.outcome.rq_mse_before, 0.5);
  EXPECT_EQ(r.outcome.rq_mse, 0.25);
  EXPECT_EQ(r.outcome.preserved_r2, 0.75);
  EXPECT_EQ(r.outcome.auc_after, 0.8);
  EXPECT_FALSE(r.outcome.cpu_s);
}

TEST(RefreshHistory, OneThatIsGivenUpSaysWhy) {
  // Old lines have the version that stays.
  for (const uint32_t version : {1u, 0u}) {
    const RefreshHistory history = TellRefreshes({Building(10, 1), Aborted(15, version)}, nullptr);
    ASSERT_EQ(history.refreshes.size(), 1u);
    EXPECT_EQ(history.refreshes[0].fate, Fate::kAborted);
    EXPECT_EQ(history.refreshes[0].why_not, "a gate");
    EXPECT_EQ(history.first, Fate::kActive);
  }
  EXPECT_THAT(FatesOf({Building(10, 1), Aborted(15, 1), Building(20, 1), Active(30, 1)}),
              ElementsAre(Fate::kKept, Fate::kAborted, Fate::kProbation));
}

TEST(RefreshHistory, ARollbackUndoesTheSwitchAndCanBeFollowedByAnother) {
  std::vector<Json> lines = {Building(10, 1), Active(20, 1), RolledBack(20, 0)};
  EXPECT_THAT(FatesOf(lines), ElementsAre(Fate::kActive, Fate::kRolledBack));
  const RefreshHistory history = TellRefreshes(lines, nullptr);
  EXPECT_EQ(history.refreshes[0].events.back().state, "ROLLED_BACK");
  EXPECT_EQ(history.refreshes[0].events.back().step, 20);
  lines.push_back(Building(30, 1));
  lines.push_back(Active(40, 1));
  EXPECT_THAT(FatesOf(lines), ElementsAre(Fate::kKept, Fate::kRolledBack, Fate::kProbation));
  // Of lines without a step, the switch's is meant.
  Json without = RolledBack(20, 0);
  without.erase("step");
  EXPECT_EQ(TellRefreshes({Building(10, 1), Active(20, 1), without}, nullptr)
                .refreshes[0]
                .events.back()
                .step,
            20);
}

TEST(RefreshHistory, ARollbackToALaterVersionMakesThatOneActive) {
  EXPECT_THAT(FatesOf({Building(10, 1), Active(20, 1), Retired(25, 1), Building(30, 2),
                       Active(40, 2), RolledBack(40, 1)}),
              ElementsAre(Fate::kRetired, Fate::kActive, Fate::kRolledBack));
}

TEST(RefreshHistory, WhatBeginsAgainWasInterrupted) {
  // Killed while it was built; then at the switch, before its commit.
  EXPECT_THAT(
      FatesOf({Building(10, 1), Building(10, 1), Active(20, 1), Building(10, 1), Active(20, 1)}),
      ElementsAre(Fate::kKept, Fate::kInterrupted, Fate::kInterrupted, Fate::kProbation));
  // The end of a probation is said again.
  EXPECT_THAT(FatesOf({Building(10, 1), Active(20, 1), Retired(30, 1), Retired(30, 1)}),
              ElementsAre(Fate::kRetired, Fate::kActive));
}

TEST(RefreshHistory, TheCommitIsRightWhereLinesDiffer) {
  const std::vector<Json> lines = {Building(10, 1), Active(20, 1)};
  // On probation still, or not any more, whatever line is lost.
  CommitManifest newest = CommitAt(25, {.version = 1, .since_step = 20, .probation = true});
  EXPECT_THAT(FatesOf(lines, &newest), ElementsAre(Fate::kKept, Fate::kProbation));
  newest.codebook.probation = false;
  EXPECT_THAT(FatesOf(lines, &newest), ElementsAre(Fate::kRetired, Fate::kActive));
  // The commit of the switch is being written, or was never.
  newest = CommitAt(15, {});
  EXPECT_THAT(FatesOf(lines, &newest), ElementsAre(Fate::kKept, Fate::kUncommitted));
  newest = CommitAt(21, {});
  EXPECT_THAT(FatesOf(lines, &newest), ElementsAre(Fate::kActive, Fate::kInterrupted));
  // Rolled back, which no line says.
  newest = CommitAt(20, {.version = 0, .since_step = 20, .previous = 1, .by_hand_only = true});
  EXPECT_THAT(FatesOf(lines, &newest), ElementsAre(Fate::kActive, Fate::kRolledBack));
}

TEST(RefreshHistory, LinesOfAnotherKindAreTakenAsFarAsTheyGo) {
  const RefreshHistory history = TellRefreshes(
      {{{"state", 5}},
       {{"state", "REFUSED"}, {"why", "no codebook"}},
       {{"state", "ACTIVE"}, {"version", 3}, {"levels", "x"}, {"step", "y"}, {"replay_auc", 1}}},
      nullptr);
  EXPECT_THAT(history.refused, ElementsAre("no codebook"));
  ASSERT_FALSE(history.refreshes.empty());
  EXPECT_EQ(history.refreshes.back().version, 3u);
  EXPECT_THAT(history.refreshes.back().outcome.levels, IsEmpty());
  EXPECT_FALSE(history.refreshes.back().switched);
}

}  // namespace
}  // namespace savior
