#include "ps/cold_store.h"

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "tests/common/temp_folder.h"
#include "tests/ps/corruption.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Rows = std::map<uint64_t, std::string>;

std::unique_ptr<ColdStore> OpenOrDie(const fs::path& folder,
                                     const std::vector<std::string>& tables = {"a", "default"}) {
  absl::StatusOr<std::unique_ptr<ColdStore>> store = ColdStore::Open(folder, tables);
  EXPECT_TRUE(store.ok()) << store.status();
  return *std::move(store);
}

void WriteRows(ColdStore* store, uint32_t table, const Rows& rows) {
  ColdStore::Batch batch;
  for (const auto& [key, value] : rows) ASSERT_TRUE(store->Put(table, key, value, &batch).ok());
  ASSERT_TRUE(store->Write(&batch).ok());
}

Rows GetRows(const ColdStore& store, uint32_t table, const std::vector<uint64_t>& keys) {
  Rows rows;
  const absl::Status status = store.Get(table, keys, [&](size_t i, std::string_view value) {
    rows[keys[i]] = std::string(value);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return rows;
}

Rows ScanRows(const ColdStore& store, uint32_t table) {
  Rows rows;
  uint64_t last = 0;
  const absl::Status status = store.Scan(table, [&](uint64_t key, std::string_view value) {
    EXPECT_TRUE(rows.empty() || key > last);
    last = key;
    rows[key] = std::string(value);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return rows;
}

TEST(ColdStore, ReadsWhatWasWrittenTableByTable) {
  const TempFolder folder;
  const auto store = OpenOrDie(folder / "db");
  const Rows rows = {{0, "zero"}, {1, ""}, {255, "x"}, {256, "y"}, {UINT64_MAX, "last"}};
  WriteRows(store.get(), 0, rows);
  WriteRows(store.get(), 1, {{1, "other"}});
  EXPECT_EQ(GetRows(*store, 0, {0, 1, 2, 255, 256, UINT64_MAX}), rows);
  EXPECT_EQ(GetRows(*store, 1, {0, 1}), (Rows{{1, "other"}}));
  EXPECT_EQ(GetRows(*store, 0, {}), Rows{});
  EXPECT_EQ(ScanRows(*store, 0), rows);
}

TEST(ColdStore, GetsManyKeysInOneCall) {
  const TempFolder folder;
  const auto store = OpenOrDie(folder / "db");
  Rows rows;
  for (uint64_t key = 0; key < 1000; key += 3) rows[key] = absl::StrCat("row ", key);
  WriteRows(store.get(), 0, rows);
  EXPECT_EQ(GetRows(*store, 0, Keys(0, 1000)), rows);
  ASSERT_TRUE(store->Flush().ok());
  EXPECT_EQ(GetRows(*store, 0, Keys(0, 1000)), rows);
}

TEST(ColdStore, CallersErrorsEndTheCall) {
  const TempFolder folder;
  const auto store = OpenOrDie(folder / "db");
  WriteRows(store.get(), 0, {{1, "a"}, {2, "b"}});
  int calls = 0;
  const auto refuse = [&](auto, std::string_view) {
    ++calls;
    return absl::CancelledError("enough");
  };
  EXPECT_TRUE(absl::IsCancelled(store->Get(0, Keys(1, 3), refuse)));
  EXPECT_TRUE(absl::IsCancelled(store->Scan(0, refuse)));
  EXPECT_EQ(calls, 2);
}

TEST(ColdStore, CheckpointHoldsEverythingAndCloneIsIndependent) {
  const TempFolder folder;
  const auto store = OpenOrDie(folder / "db");
  WriteRows(store.get(), 0, {{1, "old"}, {2, "two"}});
  ASSERT_TRUE(store->PutNote("n", "note").ok());
  ASSERT_TRUE(store->Checkpoint(folder / "point").ok());
  EXPECT_FALSE(store->Checkpoint(folder / "point").ok());  // exists
  WriteRows(store.get(), 0, {{1, "new"}});
  ASSERT_TRUE(store->Checkpoint(folder / "point2").ok());

  ASSERT_TRUE(CloneCheckpoint(folder / "point", folder / "clone").ok());
  const auto clone = OpenOrDie(folder / "clone");
  EXPECT_EQ(ScanRows(*clone, 0), (Rows{{1, "old"}, {2, "two"}}));
  EXPECT_EQ(**clone->GetNote("n"), "note");
  EXPECT_EQ(*clone->GetNote("missing"), std::nullopt);
  WriteRows(clone.get(), 0, {{3, "three"}});
  ASSERT_TRUE(clone->Flush().ok());
  // The checkpoint is as it was: a second clone sees the first content.
  ASSERT_TRUE(CloneCheckpoint(folder / "point", folder / "clone2").ok());
  EXPECT_EQ(ScanRows(*OpenOrDie(folder / "clone2"), 0), (Rows{{1, "old"}, {2, "two"}}));
  EXPECT_EQ(ScanRows(*store, 0), (Rows{{1, "new"}, {2, "two"}}));
}

size_t TableFiles(const fs::path& folder) {
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    files += entry.path().extension() == ".sst" ? 1 : 0;
  }
  return files;
}

TEST(ColdStore, OpenedForALookItMergesNothing) {
  constexpr uint64_t kFlushes = 12;  // RocksDB merges four of them
  const TempFolder folder;
  auto store = *ColdStore::Open(folder / "db", {"a"}, ColdUse::kLook);
  Rows rows;
  for (uint64_t i = 0; i < kFlushes; ++i) {
    const Rows some = {{1, std::to_string(i)}, {i + 2, "x"}};
    WriteRows(store.get(), 0, some);
    for (const auto& [key, value] : some) rows[key] = value;
    ASSERT_TRUE(store->Flush().ok());
  }
  store = *ColdStore::Open(folder / "other", {"a"});  // closed, so that nothing is under way
  store = *ColdStore::Open(folder / "db", {"a"}, ColdUse::kLook);
  Rows seen;
  ASSERT_TRUE(store
                  ->Scan(0,
                         [&](uint64_t key, std::string_view value) {
                           seen[key] = std::string(value);
                           return absl::OkStatus();
                         })
                  .ok());
  EXPECT_EQ(seen, rows);
  store.reset();
  EXPECT_EQ(TableFiles(folder / "db"), kFlushes);
}

TEST(ColdStore, CheckpointGetsOverAKilledOnesRemains) {
  const TempFolder folder;
  const auto store = OpenOrDie(folder / "db");
  fs::create_directory(folder / "point.tmp");
  std::ofstream(folder / "point.tmp/000001.sst") << "half";
  EXPECT_TRUE(store->Checkpoint(folder / "point").ok());
}

TEST(ColdStore, NewTablesMayJoinAndKnownOnesMustNotLeave) {
  const TempFolder folder;
  {
    const auto store = OpenOrDie(folder / "db", {"a"});
    WriteRows(store.get(), 0, {{1, "x"}});
    ASSERT_TRUE(store->Flush().ok());
  }
  EXPECT_EQ(ScanRows(*OpenOrDie(folder / "db", {"a", "b"}), 0), (Rows{{1, "x"}}));
  EXPECT_TRUE(absl::IsFailedPrecondition(ColdStore::Open(folder / "db", {"b"}).status()));
}

TEST(ColdStore, UnusableFolderIsAnErrorThatNamesIt) {
  const absl::Status status = ColdStore::Open("/proc/savior/db", {"a"}).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(status.message(), HasSubstr("/proc/savior/db"));
  const TempFolder folder;
  EXPECT_TRUE(absl::IsDataLoss(CloneCheckpoint(folder / "missing", folder / "clone")));
}

TEST(ColdStore, FlippedBytesOfATableFileAreDataLossThatNamesIt) {
  const TempFolder folder;
  {
    const auto store = OpenOrDie(folder / "db");
    Rows rows;
    for (uint64_t key = 0; key < 5000; ++key) rows[key] = std::string(64, 'v');
    WriteRows(store.get(), 0, rows);
    ASSERT_TRUE(store->Checkpoint(folder / "point").ok());
  }
  const fs::path hurt = FlipBytes(folder / "point");
  ASSERT_TRUE(CloneCheckpoint(folder / "point", folder / "clone").ok());
  const auto store = OpenOrDie(folder / "clone");
  const auto ignore = [](auto, std::string_view) { return absl::OkStatus(); };
  for (const absl::Status& status :
       {store->Get(0, Keys(0, 5000), ignore), store->Scan(0, ignore), store->Verify()}) {
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr(hurt.filename().string()));
  }
}

TEST(ColdStore, MissingTableFileIsDataLoss) {
  const TempFolder folder;
  {
    const auto store = OpenOrDie(folder / "db");
    WriteRows(store.get(), 0, {{1, "x"}});
    ASSERT_TRUE(store->Checkpoint(folder / "point").ok());
  }
  fs::remove(LargestTableFile(folder / "point"));
  ASSERT_TRUE(CloneCheckpoint(folder / "point", folder / "clone").ok());
  const absl::Status status = ColdStore::Open(folder / "clone", {"a", "default"}).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
}

}  // namespace
}  // namespace savior
