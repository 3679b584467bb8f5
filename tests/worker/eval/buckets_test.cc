#include "worker/eval/buckets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/eval/small_log.h"

namespace savior {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// age 10.5 days, listed on day 60, 200 prior behaviours, 5 exposures, content seen, has a vector.
constexpr BucketFacts kRow = {10.5, 60, 200, 5, 1, 1};

bool Holds(const std::string& predicate) {
  const absl::StatusOr<Bucket> bucket = Bucket::Parse({"b", predicate});
  EXPECT_TRUE(bucket.ok()) << bucket.status();
  return bucket.ok() && bucket->Contains(kRow);
}

std::string ErrorOf(const BucketSpec& spec) {
  const absl::StatusOr<Bucket> bucket = Bucket::Parse(spec);
  EXPECT_EQ(bucket.status().code(), absl::StatusCode::kInvalidArgument) << spec.predicate;
  return std::string(bucket.status().message());
}

TEST(Bucket, EmptyPredicateHoldsEveryRow) {
  EXPECT_TRUE(Holds(""));
  EXPECT_TRUE(Holds("  \n"));
}

TEST(Bucket, EveryOperatorMeansWhatItSays) {
  EXPECT_TRUE(Holds("prior_count >= 200"));
  EXPECT_TRUE(Holds("prior_count <= 200"));
  EXPECT_TRUE(Holds("prior_count == 200"));
  EXPECT_FALSE(Holds("prior_count != 200"));
  EXPECT_FALSE(Holds("prior_count < 200"));
  EXPECT_FALSE(Holds("prior_count > 200"));
  EXPECT_TRUE(Holds("age_days < 10.6"));
  EXPECT_TRUE(Holds("age_days > -1e1"));
  EXPECT_TRUE(Holds("age_days>+10"));
}

TEST(Bucket, AndNeedsEveryComparison) {
  EXPECT_TRUE(Holds("age_days <= 56 and listed_day > 56"));
  EXPECT_FALSE(Holds("age_days <= 56 and listed_day > 61"));
  EXPECT_FALSE(Holds("age_days <= 5 and listed_day > 56 and content_seen == 1"));
  EXPECT_TRUE(Holds("train_exposures<20 and content_seen==1 and has_vector!=0"));
}

TEST(Bucket, UnknownVariableNamesTheBucketAndTheNearest) {
  EXPECT_THAT(ErrorOf({"new", "age_dayz <= 56"}),
              AllOf(HasSubstr("bucket 'new'"), HasSubstr("'age_dayz'"),
                    HasSubstr("did you mean 'age_days'")));
  EXPECT_THAT(ErrorOf({"few", "train_exposure < 20"}), HasSubstr("'train_exposures'"));
}

TEST(Bucket, BrokenPredicateSaysWhatWasFound) {
  EXPECT_THAT(ErrorOf({"b", "age_days = 5"}), AllOf(HasSubstr("'='"), HasSubstr("==")));
  EXPECT_THAT(ErrorOf({"b", "age_days =< 5"}), HasSubstr("'=<'"));
  EXPECT_THAT(ErrorOf({"b", "age_days"}), HasSubstr("the end where <"));
  EXPECT_THAT(ErrorOf({"b", "age_days <"}), HasSubstr("the end where a number"));
  EXPECT_THAT(ErrorOf({"b", "age_days < five"}), HasSubstr("'five' where a number"));
  EXPECT_THAT(ErrorOf({"b", "age_days < 5x"}), HasSubstr("'5x'"));
  EXPECT_THAT(ErrorOf({"b", "age_days < inf"}), HasSubstr("'inf'"));
  EXPECT_THAT(ErrorOf({"b", "age_days < nan"}), HasSubstr("'nan'"));
  EXPECT_THAT(ErrorOf({"b", "age_days < +-5"}), HasSubstr("'+-5'"));
  EXPECT_THAT(ErrorOf({"b", "age_days < 5 or has_vector == 1"}), HasSubstr("'or' where 'and'"));
  EXPECT_THAT(ErrorOf({"b", "age_days < 5 and"}), HasSubstr("the end where a variable"));
  EXPECT_THAT(ErrorOf({"b", "< 5"}), HasSubstr("'<' where a variable"));
}

TEST(Bucket, NameMustSuitAColumn) {
  EXPECT_THAT(ErrorOf({"New items", ""}), HasSubstr("'New items'"));
  EXPECT_THAT(ErrorOf({"", ""}), HasSubstr("lower-case"));
}

std::vector<std::string> Names(const std::vector<BucketSpec>& specs) {
  const absl::StatusOr<std::vector<Bucket>> buckets = ParseBuckets(specs);
  EXPECT_TRUE(buckets.ok()) << buckets.status();
  std::vector<std::string> names;
  for (const Bucket& bucket : *buckets) names.push_back(bucket.name());
  return names;
}

TEST(ParseBuckets, PutsAllFirstAndKeepsTheOrderOfTheOthers) {
  EXPECT_THAT(Names({}), ElementsAre("all"));
  EXPECT_THAT(Names({{"popular", "prior_count >= 200"}, {"new", "age_days <= 56"}, {"all", ""}}),
              ElementsAre("all", "popular", "new"));
}

TEST(ParseBuckets, RefusesDoubleNamesAndAnAllThatIsNotAll) {
  const std::vector<BucketSpec> twice = {{"new", ""}, {"new", "age_days < 1"}};
  EXPECT_EQ(ParseBuckets(twice).status().code(), absl::StatusCode::kInvalidArgument);
  const std::vector<BucketSpec> all = {{"all", "age_days < 1"}};
  EXPECT_EQ(ParseBuckets(all).status().code(), absl::StatusCode::kInvalidArgument);
}

// Items 0, 1 share content 0; item 2 has content 1; item 3 has none; item 4 has content 2. Training
// is days 11 and 12.
FakeLog MakeLog() {
  FakeLog log;
  AddItems({10 * kDay, 11 * kDay + kDay / 2, 9 * kDay, 9 * kDay, 9 * kDay}, {0, 0, 1, -1, 2}, &log);
  AddDay({{10 * kDay + 5, {2, 2}}}, &log);  // before training
  AddDay({{11 * kDay, {0, 3}}}, &log);      // its first second
  AddDay({{12 * kDay + 100, {0}}, {12 * kDay + 200, {0, 3}}}, &log);
  AddDay({{13 * kDay, {4}}}, &log);  // the first second after it
  return log;
}

TEST(ScanTraining, CountsOnlyTheTrainingPeriod) {
  const FakeLog log = MakeLog();
  const absl::StatusOr<ItemFacts> facts = ScanTraining(log, {11 * kDay, 13 * kDay});
  ASSERT_TRUE(facts.ok()) << facts.status();
  EXPECT_THAT(facts->train_exposures, ElementsAre(3, 0, 0, 2, 0));
  EXPECT_THAT(facts->content_seen, ElementsAre(1, 0, 0));
}

TEST(ScanTraining, PeriodMayBeginAndEndInsideADay) {
  const FakeLog log = MakeLog();
  const absl::StatusOr<ItemFacts> facts = ScanTraining(log, {10 * kDay + 5, 12 * kDay + 200});
  ASSERT_TRUE(facts.ok()) << facts.status();
  EXPECT_THAT(facts->train_exposures, ElementsAre(2, 0, 2, 1, 0));
}

TEST(LogStart, IsTheDayOfTheFirstRequestOrBehaviour) {
  FakeLog log = MakeLog();
  EXPECT_EQ(LogStart(log), 10 * kDay);
  log.AddBehaviour(1, 0, 40 * kDay);
  EXPECT_EQ(LogStart(log), 10 * kDay);
  log.AddBehaviour(1, 0, 3 * kDay + 7);  // user 0 has none
  EXPECT_EQ(LogStart(log), 3 * kDay);
  EXPECT_EQ(LogStart(FakeLog()), 0);
}

TEST(FactsOf, ComputesEveryVariable) {
  FakeLog log = MakeLog();
  log.AddBehaviour(0, 0, 3 * kDay);
  const ItemFacts facts = ScanTraining(log, {11 * kDay, 13 * kDay}).value();
  // Item 1 itself was never shown, but item 0 with the same content was.
  EXPECT_THAT(FactsOf(log, facts, 1, 13 * kDay, 7), ElementsAre(1.5, 8.5, 7, 0, 1, 1));
  EXPECT_THAT(FactsOf(log, facts, 2, 13 * kDay, 0), ElementsAre(4, 6, 0, 0, 0, 1));
  EXPECT_THAT(FactsOf(log, facts, 3, 13 * kDay, 0), ElementsAre(4, 6, 0, 2, 0, 0));
}

}  // namespace
}  // namespace savior
