#include "worker/data/prepare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "common/random.h"
#include "tests/worker/data/raw_tables.h"
#include "worker/data/batch.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using testing::Folder;
using ::testing::HasSubstr;
using testing::kDay;
using testing::kStart;

TEST(Prepare, GroupsRequestsByDayAndTime) {
  const Folder folder;
  const auto log = PrepareAndOpen(testing::TinyRaw(), folder);
  ASSERT_NE(log, nullptr);
  ASSERT_EQ(log->days().size(), 2u);
  EXPECT_EQ(log->days()[0].start, kStart);
  EXPECT_EQ(log->days()[1].start, kStart + kDay);

  const auto day = log->ReadDay(0);
  ASSERT_TRUE(day.ok()) << day.status();
  EXPECT_THAT(day->request_ids, ElementsAre(1, 2));
  EXPECT_THAT(day->row_begin, ElementsAre(0, 2, 4));
  EXPECT_THAT(day->users, ElementsAre(0, 1));        // ids 10 and 20
  EXPECT_THAT(day->items, ElementsAre(1, 0, 0, 1));  // in raw order within a request
  EXPECT_THAT(day->clicks, ElementsAre(0, 1, 1, 0));
  EXPECT_THAT(day->conversions, ElementsAre(0, 1, 0, 0));
  EXPECT_THAT(day->weights, ElementsAre(1, 1, 1, 2));
  // "web" is more frequent than "app".
  EXPECT_THAT(log->schema().context_features[0].vocabulary, ElementsAre("", "web", "app"));
  EXPECT_THAT(day->context[0], ElementsAre(2, 1, 2, 1));
  EXPECT_THAT(day->numerics[0], ElementsAre(1, 2, 0, 0));
}

TEST(Prepare, HistoryEndsStrictlyBeforeTheRequest) {
  const Folder folder;
  const auto log = PrepareAndOpen(testing::TinyRaw(), folder);
  ASSERT_NE(log, nullptr);
  EXPECT_THAT(log->user_ids(), ElementsAre(10, 20, 30));
  const Timeline timeline = log->timeline(0);
  EXPECT_THAT(timeline.items, ElementsAre(1, 2, 0));  // a tie stays in raw order
  const auto first = log->ReadDay(0);
  const auto second = log->ReadDay(1);
  ASSERT_TRUE(first.ok() && second.ok());
  // The purchase in the request's own second is not history; user 20 has none at all.
  EXPECT_THAT(first->history_end, ElementsAre(2, 0));
  EXPECT_THAT(second->history_end, ElementsAre(3));
  EXPECT_THAT(log->schema().behaviour_kinds, ElementsAre("click", "buy"));
  EXPECT_THAT(timeline.kinds, ElementsAre(0, 0, 1));
}

TEST(Prepare, CountsBehavioursOfEarlierDaysOnly) {
  const Folder folder;
  const auto log = PrepareAndOpen(testing::TinyRaw(), folder);
  ASSERT_NE(log, nullptr);
  const auto first = log->ReadDay(0);
  const auto second = log->ReadDay(1);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_THAT(first->prior_counts, ElementsAre(0, 0, 0, 0));
  EXPECT_THAT(second->prior_counts, ElementsAre(2));  // item 102: in 1970 and on the day before
}

TEST(Prepare, KeepsItemsWithoutAVector) {
  const Folder folder;
  WriteTables(testing::TinyRaw().Tables(), folder / "raw");
  const auto summary = Prepare({.raw = folder / "raw", .out = folder / "log"});
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->items_without_vector, 1);
  EXPECT_EQ(summary->items, 3);
  EXPECT_EQ(summary->contents, 2);
  EXPECT_EQ(summary->users, 3);
  EXPECT_EQ(summary->requests, 3);
  EXPECT_DOUBLE_EQ(summary->click_rate, 0.4);
  EXPECT_DOUBLE_EQ(summary->conversion_rate, 0.2);

  const auto log = TrainingLog::Open(folder / "log");
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_THAT((*log)->item_ids(), ElementsAre(100, 101, 102));
  EXPECT_THAT((*log)->item_contents(), ElementsAre(0, 1, -1));
  EXPECT_THAT((*log)->listed_at(), ElementsAre(5, 7, kStart));
  EXPECT_EQ((*log)->title(0), "first");
  EXPECT_EQ((*log)->title(1), "");
  EXPECT_THAT((*log)->schema().item_features[0].vocabulary, ElementsAre("", "b", "a"));
  EXPECT_THAT((*log)->item_feature(0), ElementsAre(1, 2, 1));
  EXPECT_THAT((*log)->item_numeric(0), ElementsAre(1.5f, 2.5f, 0.0f));  // a null reads as 0
  // 0.5, -1, 1, 2 as float16.
  EXPECT_THAT((*log)->vectors(0), ElementsAre(0x3800, 0xbc00, 0x3c00, 0x4000));
}

TEST(Prepare, NumbersDistinctContentsByFirstItem) {
  using testing::Element;
  const Folder folder;
  auto tables = testing::TinyRaw().Tables();
  tables["item_vectors"].columns.clear();
  tables["item_vectors"].Set("item_id", testing::Ints({102, 101, 100}));
  tables["item_vectors"].Set(
      "text", testing::Lists({{{1, 1}}, {{2, 2}}, {{1, 1}}}, Element::kDouble, false));
  // Items 100 and 102 agree in text and image: null is what null is.
  tables["item_vectors"].Set(
      "image", testing::Lists({std::nullopt, {{3, 4, 5}}, std::nullopt}, Element::kFloat, false));
  WriteTables(tables, folder / "raw");
  ASSERT_TRUE(Prepare({.raw = folder / "raw", .out = folder / "log"}).ok());
  const auto log = TrainingLog::Open(folder / "log");
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_THAT((*log)->item_contents(), ElementsAre(0, 1, 0));
  EXPECT_EQ((*log)->schema().modalities[1].dim, 3);
  EXPECT_THAT((*log)->vectors(0), ElementsAre(0x3c00, 0x3c00, 0x4000, 0x4000));
  EXPECT_THAT((*log)->vectors(1), ElementsAre(0, 0, 0, 0x4200, 0x4400, 0x4500));
}

TEST(Prepare, ReadsEveryTypeOfTheSchemaAlike) {
  using testing::Element;
  const Folder folder;
  const testing::RawData raw = testing::TinyRaw();
  const auto plain = raw.Tables();
  WriteTables(plain, folder / "plain");
  ASSERT_TRUE(Prepare({.raw = folder / "plain", .out = folder / "a"}).ok());
  const auto expected = testing::FilesOf(folder / "a");
  for (const Element element : {Element::kHalf, Element::kFloat, Element::kDouble}) {
    for (const bool fixed : {false, true}) {
      auto tables = plain;
      tables["item_vectors"].Set("text", testing::Lists({{{1, 2}}, {{0.5, -1}}}, element, fixed));
      tables["behaviours"].Set("kind", testing::Dictionary({"buy", "click", "click", "click"}));
      tables["impressions"].Set("ctx_channel",
                                testing::LargeTexts({"web", "app", "app", "web", "web"}));
      tables["impressions"].Set("click", testing::Ints({0, 1, 0, 0, 1}));
      tables["items"].Set("title", testing::Texts({"late", "first", std::nullopt}));
      fs::remove_all(folder / "other");
      WriteTables(tables, folder / "other");
      const auto summary = Prepare({.raw = folder / "other", .out = folder / "b"});
      ASSERT_TRUE(summary.ok()) << summary.status();
      EXPECT_EQ(testing::FilesOf(folder / "b"), expected);
    }
  }
}

TEST(Prepare, SameRawGivesTheSameBytesForAnyPartsAndRowGroups) {
  const Folder folder;
  const auto tables = testing::RandomRaw(3, 200, 4).Tables();
  WriteTables(tables, folder / "one");
  WriteTables(tables, folder / "many", /*parts=*/7, /*group_rows=*/5);
  ASSERT_TRUE(Prepare({.raw = folder / "one", .out = folder / "a"}).ok());
  ASSERT_TRUE(Prepare({.raw = folder / "one", .out = folder / "b"}).ok());
  ASSERT_TRUE(Prepare({.raw = folder / "many", .out = folder / "c"}).ok());
  EXPECT_EQ(testing::FilesOf(folder / "a"), testing::FilesOf(folder / "b"));
  EXPECT_EQ(testing::FilesOf(folder / "a"), testing::FilesOf(folder / "c"));
}

TEST(Prepare, SpillingChangesNothingButTheCutOfFiles) {
  const Folder folder;
  const auto raw = testing::RandomRaw(4, 300, 5);
  const auto whole = PrepareAndOpen(raw, folder, "whole", int64_t{1} << 30);
  const auto spilled = PrepareAndOpen(raw, folder, "spilled", 1 << 10);
  ASSERT_TRUE(whole != nullptr && spilled != nullptr);
  auto whole_files = testing::FilesOf(folder / "whole");
  auto spilled_files = testing::FilesOf(folder / "spilled");
  EXPECT_GT(spilled_files.count("timelines-00003.arrow"), 0u);
  EXPECT_GT(spilled_files.size(), whole_files.size() + 8);  // a pair of files per day, not for all
  const auto differs = [](const auto& file) {
    return file.first.rfind("timelines-", 0) == 0 || file.first.rfind("days/", 0) == 0 ||
           file.first == "manifest.json";
  };
  std::erase_if(whole_files, differs);
  std::erase_if(spilled_files, differs);
  EXPECT_EQ(whole_files, spilled_files);
  const BatchOptions all{.period = {.from = 0, .until = int64_t{1} << 40},
                         .requests_per_batch = 10'000};
  const auto a = BatchReader::Create(whole.get(), all);
  const auto b = BatchReader::Create(spilled.get(), all);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_TRUE(*(*a)->Read(0) == *(*b)->Read(0));
  for (int64_t user = 0; user < whole->num_users(); ++user) {
    const Timeline one = whole->timeline(user);
    const Timeline two = spilled->timeline(user);
    EXPECT_THAT(one.items, ::testing::ElementsAreArray(two.items));
    EXPECT_THAT(one.timestamps, ::testing::ElementsAreArray(two.timestamps));
    EXPECT_THAT(one.kinds, ::testing::ElementsAreArray(two.kinds));
  }
}

TEST(Prepare, OptionalColumnsMayBeMissing) {
  const Folder folder;
  auto tables = testing::TinyRaw().Tables();
  for (const char* name : {"conversion", "weight", "ctx_channel", "num_hour"}) {
    tables["impressions"].Drop(name);
  }
  for (const char* name : {"title", "feat_brand", "num_price"}) tables["items"].Drop(name);
  WriteTables(tables, folder / "raw");
  ASSERT_TRUE(Prepare({.raw = folder / "raw", .out = folder / "log"}).ok());
  const auto log = TrainingLog::Open(folder / "log");
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_FALSE((*log)->schema().has_conversion);
  EXPECT_FALSE((*log)->schema().has_weight);
  const auto day = (*log)->ReadDay(0);
  ASSERT_TRUE(day.ok());
  EXPECT_TRUE(day->conversions.empty());
  EXPECT_TRUE(day->weights.empty());
  EXPECT_EQ((*log)->title(0), "");
}

TEST(Prepare, DegenerateDataSets) {
  const Folder folder;
  testing::RawData raw = testing::TinyRaw();
  raw.impressions.clear();
  raw.behaviours.clear();
  raw.vectors.clear();
  raw.items.resize(1);
  const auto log = PrepareAndOpen(raw, folder);
  ASSERT_NE(log, nullptr);
  EXPECT_TRUE(log->days().empty());
  EXPECT_EQ(log->num_users(), 0);
  EXPECT_EQ(log->num_items(), 1);
  EXPECT_EQ(log->num_contents(), 0);
  EXPECT_TRUE(log->vectors(0).empty());
}

TEST(Prepare, ReplacesOlderLogsAndUnfinishedWork) {
  const Folder folder;
  WriteTables(testing::TinyRaw().Tables(), folder / "raw");
  fs::create_directories(folder / "log.part/days");
  std::ofstream(folder / "log.part/days/2022-01-01-rows.arrow") << "unfinished";
  std::ofstream(folder / "log.part/manifest.json") << "{}";
  const PrepareOptions options{.raw = folder / "raw", .out = folder / "log"};
  ASSERT_TRUE(Prepare(options).ok());
  const auto files = testing::FilesOf(folder / "log");
  EXPECT_EQ(files.count("days/2022-01-01-rows.arrow"), 0u);
  EXPECT_FALSE(fs::exists(folder / "log.part"));
  ASSERT_TRUE(Prepare(options).ok());
  EXPECT_EQ(testing::FilesOf(folder / "log"), files);
  EXPECT_FALSE(fs::exists(folder / "log.old"));
}

TEST(Prepare, NeverReplacesWhatIsNoLog) {
  const Folder folder;
  WriteTables(testing::TinyRaw().Tables(), folder / "raw");
  fs::create_directories(folder / "home");
  std::ofstream(folder / "home/letter.txt") << "dear";
  const auto summary = Prepare({.raw = folder / "raw", .out = folder / "home"});
  EXPECT_TRUE(absl::IsInvalidArgument(summary.status())) << summary.status();
  EXPECT_THAT(std::string(summary.status().message()), HasSubstr("home"));
  EXPECT_TRUE(fs::exists(folder / "home/letter.txt"));
}

TEST(Prepare, FailureLeavesTheOlderLogAndNoWork) {
  const Folder folder;
  WriteTables(testing::TinyRaw().Tables(), folder / "raw");
  const PrepareOptions options{.raw = folder / "raw", .out = folder / "log"};
  ASSERT_TRUE(Prepare(options).ok());
  fs::remove(folder / "raw/items.parquet");
  const auto summary = Prepare(options);
  EXPECT_TRUE(absl::IsNotFound(summary.status())) << summary.status();
  EXPECT_THAT(std::string(summary.status().message()), HasSubstr("items.parquet"));
  EXPECT_TRUE(TrainingLog::Open(folder / "log").ok());
  EXPECT_FALSE(fs::exists(folder / "log.part"));
}

TEST(Prepare, FullDiskLeavesNothingThatCouldBeTakenForWhole) {
  const Folder folder;
  WriteTables(testing::RandomRaw(5, 20'000, 30).Tables(), folder / "raw");
  const fs::path disk = folder / "disk";
  fs::create_directories(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=256k") != 0) {
    GTEST_SKIP() << "NOT TESTED: a full disk. Mounting a small tmpfs needs root: "
                 << std::strerror(errno);
  }
  // Once while spilling, and once while the log is written.
  for (const int64_t memory : {int64_t{1} << 14, int64_t{1} << 30}) {
    const auto summary =
        Prepare({.raw = folder / "raw", .out = disk / "log", .memory_bytes = memory});
    EXPECT_TRUE(absl::IsResourceExhausted(summary.status())) << summary.status();
    EXPECT_FALSE(fs::exists(disk / "log"));
    EXPECT_FALSE(fs::exists(disk / "log.part"));
    EXPECT_TRUE(absl::IsNotFound(TrainingLog::Open(disk / "log").status()));
  }
  EXPECT_EQ(umount(disk.c_str()), 0) << std::strerror(errno);
}

TEST(RawFingerprint, ChangesWithTheFiles) {
  const Folder folder;
  WriteTables(testing::TinyRaw().Tables(), folder / "raw");
  const auto before = RawFingerprint(folder / "raw");
  ASSERT_TRUE(before.ok()) << before.status();
  EXPECT_EQ(*before, *RawFingerprint(folder / "raw"));
  const fs::path items = folder / "raw/items.parquet";
  fs::last_write_time(items, fs::last_write_time(items) + std::chrono::seconds(1));
  EXPECT_NE(*before, *RawFingerprint(folder / "raw"));
  fs::remove(items);
  EXPECT_TRUE(absl::IsNotFound(RawFingerprint(folder / "raw").status()));
}

}  // namespace
}  // namespace savior
