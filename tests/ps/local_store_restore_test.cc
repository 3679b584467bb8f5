#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ps/local_store.h"
#include "tests/common/temp_folder.h"
#include "tests/ps/corruption.h"
#include "tests/ps/naive_store.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Rows = std::map<uint64_t, NaiveStore::Row>;

constexpr uint64_t kSeed = 5;

std::vector<Rows> AllRows(LocalStore& store) {
  std::vector<Rows> tables;
  for (uint32_t t = 0; t < store.tables().size(); ++t) {
    Rows& rows = tables.emplace_back();
    const absl::Status status = store.ForEachRow(
        t,
        [&](const StoredRow& row) {
          rows[row.key] = NaiveStore::Row::Of(row);
          return absl::OkStatus();
        },
        Soon());
    EXPECT_TRUE(status.ok()) << status;
  }
  return tables;
}

void Train(LocalStore& store, int64_t begin, int64_t end) {
  for (int64_t step = begin; step < end; ++step) {
    Random random(kSeed, static_cast<uint64_t>(step));
    for (uint32_t t = 0; t < store.tables().size(); ++t) {
      const uint64_t first = random.Below(2000);
      const std::vector<uint64_t> keys = Keys(first, first + 200);
      const TableSpec& spec = store.tables()[t];
      const std::vector<float> values = RandomFloats(keys.size() * spec.dim, &random);
      const absl::Status status = spec.kind == TableKind::kFrozen
                                      ? PutRows(store, t, keys, values)
                                      : PushRows(store, step, t, keys, values);
      ASSERT_TRUE(status.ok()) << status;
    }
  }
}

// "idle" forgets after 10 steps, most rows a minute; "counted" admits with the third push.
std::vector<TableSpec> RuledTables() {
  std::vector<TableSpec> tables = {IdTable("idle", 4), IdTable("counted", 4)};
  tables[0].eviction = {.idle_steps = 10, .max_share_per_minute = 1};
  tables[1].admission = {.kind = AdmissionKind::kCount, .count = 3};
  return tables;
}

class RestoreTest : public testing::Test {
 protected:
  LocalStoreOptions Options(uint32_t shards, uint64_t budget = 1 << 30) {
    return {.tables = AllTables(),
            .shards = shards,
            .ram_budget_bytes = budget,
            .folder = folder_ / ("live" + std::to_string(lives_++)),
            .seed = kSeed};
  }
  std::unique_ptr<LocalStore> OpenOrDie(const LocalStoreOptions& options) {
    auto store = LocalStore::Open(options);
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  absl::Status TryRestore(uint32_t shards) {
    LocalStoreOptions options = Options(shards);
    options.restore_from = folder_ / "commit";
    return LocalStore::Open(options).status();
  }
  // A trained store's checkpoint in commit/.
  void MakeCommit(uint32_t shards) {
    const auto store = OpenOrDie(Options(shards));
    Train(*store, 0, 10);
    ASSERT_TRUE(store->Checkpoint(folder_ / "commit", Soon()).ok());
  }

  const TempFolder folder_;
  int lives_ = 0;
};

TEST_F(RestoreTest, AnyNumberOfShardsGetsTheSameRowsAndTrainsOnAlike) {
  const std::pair<uint32_t, std::vector<uint32_t>> ways[] = {
      {1, {1, 3}}, {2, {1, 2, 3, 5}}, {3, {2, 5}}};
  for (const auto& [from, targets] : ways) {
    const fs::path commit = folder_ / ("commit" + std::to_string(from));
    const auto store = OpenOrDie(Options(from, from == 2 ? 0 : 1 << 30));
    Train(*store, 0, 10);
    ASSERT_TRUE(store->Checkpoint(commit, Soon()).ok());
    const std::vector<Rows> at_commit = AllRows(*store);
    Train(*store, 10, 15);
    const std::vector<Rows> at_end = AllRows(*store);
    for (const uint32_t to : targets) {
      LocalStoreOptions options = Options(to, to == 5 ? 100'000 : 1 << 30);
      options.restore_from = commit;
      const auto restored = OpenOrDie(options);
      EXPECT_EQ(restored->Stats(Soon())->tables.at(0).rows, at_commit[0].size());
      EXPECT_EQ(AllRows(*restored), at_commit) << from << " to " << to;
      Train(*restored, 10, 15);
      EXPECT_EQ(AllRows(*restored), at_end) << from << " to " << to;
    }
  }
}

TEST_F(RestoreTest, ACommitOutlivesWhatItsRestoredStoresDo) {
  MakeCommit(2);
  LocalStoreOptions options = Options(2);
  options.restore_from = folder_ / "commit";
  std::vector<Rows> first;
  for (int round = 0; round < 3; ++round) {
    const auto store =
        OpenOrDie(options);  // the same folder again: the live databases are made anew
    if (round == 0) first = AllRows(*store);
    EXPECT_EQ(AllRows(*store), first);
    Train(*store, 20, 30);
    ASSERT_TRUE(store->Checkpoint(folder_ / ("later" + std::to_string(round)), Soon()).ok());
  }
}

TEST_F(RestoreTest, AnEmptyStoreRestores) {
  ASSERT_TRUE(OpenOrDie(Options(2))->Checkpoint(folder_ / "commit", Soon()).ok());
  EXPECT_TRUE(TryRestore(2).ok());
  EXPECT_TRUE(TryRestore(3).ok());
}

TEST_F(RestoreTest, CheckpointOverAnotherIsRefused) {
  const auto store = OpenOrDie(Options(1));
  ASSERT_TRUE(store->Checkpoint(folder_ / "commit", Soon()).ok());
  EXPECT_FALSE(store->Checkpoint(folder_ / "commit", Soon()).ok());
  EXPECT_TRUE(TryRestore(1).ok());
}

TEST_F(RestoreTest, WhatIsNotACommitIsRefused) {
  EXPECT_TRUE(absl::IsNotFound(TryRestore(1)));
  MakeCommit(3);
  fs::rename(folder_ / "commit/shard-2", folder_ / "away");
  absl::Status status = TryRestore(3);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;  // shard 0 is of 3, not of 2
  EXPECT_THAT(status.message(), HasSubstr("shard-0"));
  fs::rename(folder_ / "commit/shard-1", folder_ / "commit/shard-2");
  fs::rename(folder_ / "away", folder_ / "commit/shard-1");
  status = TryRestore(1);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;  // swapped
  EXPECT_THAT(status.message(), HasSubstr("shard-1"));
}

TEST_F(RestoreTest, AnotherConfigurationIsRefusedByName) {
  MakeCommit(1);
  const auto refused = [&](auto change, const std::string& named) {
    for (const uint32_t shards : {1u, 2u}) {
      LocalStoreOptions options = Options(shards);
      options.restore_from = folder_ / "commit";
      change(&options);
      const absl::Status status = LocalStore::Open(options).status();
      EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
      EXPECT_THAT(status.message(), HasSubstr(named));
    }
  };
  using O = LocalStoreOptions;
  refused([](O* o) { o->seed = 6; }, "seed");
  refused([](O* o) { o->tables[1].dim = 16; }, "adagrad");
  refused([](O* o) { o->tables[0].optimizer.kind = OptimizerKind::kAdam; }, "sgd");
  refused([](O* o) { o->tables[7].dtype = StoreDtype::kFloat32; }, "content_half");
  refused([](O* o) { std::swap(o->tables[0], o->tables[1]); }, "adagrad");
  refused([](O* o) { o->tables.pop_back(); }, "content_half");
}

TEST_F(RestoreTest, NewTablesAndOtherRatesAreFine) {
  MakeCommit(2);
  for (const uint32_t shards : {2u, 3u}) {
    LocalStoreOptions options = Options(shards);
    options.restore_from = folder_ / "commit";
    options.tables[0].optimizer.lr = 0.01f;
    options.tables.push_back(IdTable("new", 4));
    const auto store = OpenOrDie(options);
    EXPECT_EQ(store->Stats(Soon())->tables.back().rows, 0u);
    EXPECT_GT(store->Stats(Soon())->tables.front().rows, 0u);
    EXPECT_TRUE(PushRows(*store, 0, 8, Keys(0, 9), std::vector<float>(36, 1.0f)).ok());
  }
}

TEST_F(RestoreTest, CorruptTableFilesAreDataLossThatNamesFileAndTable) {
  MakeCommit(1);
  const fs::path hurt = FlipBytes(folder_ / "commit/shard-0");
  const absl::Status anew = TryRestore(2);  // reads every row
  EXPECT_TRUE(absl::IsDataLoss(anew)) << anew;
  EXPECT_THAT(anew.message(), HasSubstr(hurt.filename().string()));
  EXPECT_THAT(anew.message(), HasSubstr("table "));

  LocalStoreOptions options = Options(1);
  options.restore_from = folder_ / "commit";
  const auto store = OpenOrDie(options);  // clones: does not read rows
  absl::Status first;
  for (uint32_t t = 0; t < store->tables().size() && first.ok(); ++t) {
    std::vector<float> rows(2200 * store->tables()[t].dim);
    const std::vector<uint64_t> keys = Keys(0, 2200);
    const TablePull pull{.table = t, .keys = keys, .rows = rows};
    first = store->Pull({&pull, 1}, Soon());
  }
  EXPECT_TRUE(absl::IsDataLoss(first)) << first;
  EXPECT_THAT(first.message(), HasSubstr(hurt.filename().string()));
  // From now on the shard rather says so than serve anything: even a table that is whole.
  for (uint32_t t = 0; t < store->tables().size(); ++t) {
    EXPECT_TRUE(absl::IsDataLoss(store->ForEachRow(
        t, [](const StoredRow&) { return absl::OkStatus(); }, Soon())));
  }
  EXPECT_TRUE(absl::IsDataLoss(store->Checkpoint(folder_ / "next", Soon())));
}

// A run that goes on from a checkpoint sees the same rows as one that was never stopped, rules
// included: with as many shards exactly, with others as far as counts of a bucket decide.
TEST_F(RestoreTest, RulesGoOnWhereTheyWere) {
  LocalStoreOptions options = Options(2);
  options.tables = RuledTables();
  options.steps_per_minute = 4;
  const auto store = OpenOrDie(options);
  Train(*store, 0, 40);
  EXPECT_GT(store->Stats(Soon())->tables.at(0).evicted, 0u);
  EXPECT_GT(store->Stats(Soon())->tables.at(1).refused, 0u);
  ASSERT_TRUE(store->Checkpoint(folder_ / "commit", Soon()).ok());
  const std::vector<Rows> then = AllRows(*store);
  Train(*store, 40, 80);
  const std::vector<Rows> end = AllRows(*store);
  for (const uint32_t shards : {2u, 3u}) {
    LocalStoreOptions again = Options(shards);
    again.tables = options.tables;
    again.steps_per_minute = options.steps_per_minute;
    again.restore_from = folder_ / "commit";
    const auto restored = OpenOrDie(again);
    EXPECT_EQ(AllRows(*restored), then);
    EXPECT_EQ(restored->Stats(Soon())->tables.at(0).rows, then[0].size());
    Train(*restored, 40, 80);
    const std::vector<Rows> rows = AllRows(*restored);
    EXPECT_EQ(rows[1], end[1]);
    if (shards == 2) {
      EXPECT_EQ(rows[0], end[0]);
    }
  }
}

TEST_F(RestoreTest, RulesMayChangeBetweenRuns) {
  LocalStoreOptions options = Options(2);
  options.tables = RuledTables();
  options.steps_per_minute = 4;
  const auto store = OpenOrDie(options);
  Train(*store, 0, 40);
  ASSERT_TRUE(store->Checkpoint(folder_ / "commit", Soon()).ok());
  const std::vector<Rows> then = AllRows(*store);
  for (const EvictionSpec& eviction :
       {EvictionSpec{}, EvictionSpec{.min_score = 1e-6f, .score_idle_steps = 5}}) {
    LocalStoreOptions again = Options(2);
    again.tables = options.tables;
    again.tables[0].eviction = eviction;              // what was forgotten stays so
    again.tables[1].eviction = {.idle_steps = 1000};  // had none
    again.tables[1].admission = {};
    again.restore_from = folder_ / "commit";
    const auto restored = OpenOrDie(again);
    EXPECT_EQ(AllRows(*restored), then);
    EXPECT_EQ(restored->Stats(Soon())->tables.at(0).rows, then[0].size());
    EXPECT_EQ(restored->Stats(Soon())->tables.at(1).rows, then[1].size());
  }
}

}  // namespace
}  // namespace savior
