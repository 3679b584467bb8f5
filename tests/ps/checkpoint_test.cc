// Checkpoints that do not stop a shard: whatever happens while one is written, it holds the rows of
// its cut, and the shard those of now.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/random.h"
#include "ps/held_writes.h"
#include "ps/restore.h"
#include "ps/shard.h"
#include "tests/common/small_disk.h"
#include "tests/common/temp_folder.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

struct Row {
  std::vector<float> weights, state;
  uint32_t updates = 0;
  int64_t last_step = 0;
  bool operator==(const Row&) const = default;
};
using Rows = std::map<uint64_t, Row>;

Rows RowsOf(Shard* shard, uint32_t table) {
  Rows rows;
  std::optional<uint64_t> from = 0;
  while (from.has_value()) {
    const RowRange range = {.from = *from, .rows = 1000};
    const auto next = shard->VisitRows(table, {&range, 1}, [&](size_t, const StoredRow& row) {
      rows[row.key] = {{row.weights.begin(), row.weights.end()},
                       {row.state.begin(), row.state.end()},
                       row.updates,
                       row.last_step};
      return absl::OkStatus();
    });
    EXPECT_TRUE(next.ok()) << next.status();
    if (!next.ok()) break;
    from = next->front();
  }
  return rows;
}

struct Config {
  std::vector<TableSpec> tables;
  uint64_t ram_bytes = 0;
  std::optional<uint64_t> held_bytes = std::nullopt;
};

std::unique_ptr<Shard> Open(const Config& config, const fs::path& folder) {
  auto shard = Shard::Open({.tables = config.tables,
                            .ram_budget_bytes = config.ram_bytes,
                            .seed = 5,
                            .steps_per_minute = 4,
                            .folder = folder,
                            .held_bytes = config.held_bytes});
  EXPECT_TRUE(shard.ok()) << shard.status();
  return *std::move(shard);
}

std::vector<Rows> AllRowsOf(const Config& config, Shard* shard) {
  std::vector<Rows> rows;
  for (uint32_t t = 0; t < config.tables.size(); ++t) rows.push_back(RowsOf(shard, t));
  return rows;
}

// The rows of a checkpoint, by table.
std::vector<Rows> RowsIn(const Config& config, const fs::path& checkpoint) {
  const TempFolder folder;
  EXPECT_TRUE(CloneCheckpoint(checkpoint, folder / "db").ok());
  const auto shard = Open(config, folder / "db");
  return AllRowsOf(config, shard.get());
}

// Random requests, the same ones for the same seed.
class Traffic {
 public:
  // most: of a request's keys.
  Traffic(const Config& config, uint64_t seed, uint64_t keys, uint64_t most = 60)
      : tables_(config.tables), random_(seed), keys_(keys), most_(most) {}

  // One request to every one of these shards, which answer alike.
  void Step(const std::vector<Shard*>& shards) {
    const auto t = static_cast<uint32_t>(random_.Below(tables_.size()));
    const TableSpec& spec = tables_[t];
    std::vector<uint64_t> keys;
    const uint64_t n = 1 + random_.Below(most_);
    const uint64_t first = random_.Below(keys_);
    for (uint64_t i = 0; i < n; ++i) keys.push_back((first + i * 7919) % keys_);
    std::ranges::sort(keys);
    keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
    std::vector<float> values(keys.size() * spec.dim);
    for (float& value : values) value = static_cast<float>(random_.Below(1000)) / 1000 - 0.5f;
    const uint64_t what = random_.Below(4);
    // Whole rows: what a push would bring, and a state.
    const bool writes = random_.Below(4) == 0;
    std::vector<float> whole(keys.size() * RowFloats(spec));
    for (float& value : whole) value = static_cast<float>(random_.Below(1000)) / 1000;
    const std::vector<uint32_t> updates(keys.size(), 1 + static_cast<uint32_t>(random_.Below(9)));
    step_ += static_cast<int64_t>(random_.Below(2));
    std::vector<float> first_answer;
    for (Shard* shard : shards) {
      if (what == 0) {
        std::vector<float> rows(values.size());
        ASSERT_TRUE(shard->Pull(t, {keys, {}}, rows.data(), nullptr).ok());
        if (first_answer.empty()) first_answer = rows;
        ASSERT_EQ(rows, first_answer) << "table " << spec.name;
      } else if (spec.kind == TableKind::kFrozen) {
        const WritePart put{.table = t, .selection = {keys, {}}, .values = values.data()};
        ASSERT_TRUE(shard->Put({&put, 1}).ok());
      } else if (writes) {
        const WritePart write{
            .table = t, .selection = {keys, {}}, .values = whole.data(), .updates = updates.data()};
        ASSERT_TRUE(shard->WriteRows(step_, {&write, 1}).ok());
      } else {
        const WritePart push{.table = t, .selection = {keys, {}}, .values = values.data()};
        ASSERT_TRUE(shard->Push(step_, {&push, 1}).ok());
      }
      if (what == 1) {
        ASSERT_TRUE(shard->Hint(t, step_ + 1, keys).ok());
      }
      if (what == 2) shard->Tend();
    }
  }

 private:
  const std::vector<TableSpec> tables_;
  Random random_;
  const uint64_t keys_;
  const uint64_t most_;
  int64_t step_ = 1;
};

Config Tables(uint64_t ram_bytes) {
  TableSpec rules = IdTable("rules", 4);
  rules.admission = {.kind = AdmissionKind::kCount, .count = 2};
  rules.eviction = {.idle_steps = 40, .capacity_rows = 2000, .max_share_per_minute = 0.2f};
  TableSpec half = IdTable("half", 8);
  half.dtype = StoreDtype::kFloat16;
  return {.tables = {AlignSpec("align", 4, Optimizer(OptimizerKind::kAdam)), rules, half,
                     FrozenTable("frozen", 8)},
          .ram_bytes = ram_bytes};
}

// Beside a shard that never writes a checkpoint and gets the same requests.
void CompareWithUndisturbed(const Config& config, uint64_t seed, uint64_t keys,
                            uint64_t most = 60) {
  SCOPED_TRACE(testing::Message() << "seed " << seed << ", " << config.ram_bytes << " B of RAM, "
                                  << config.held_bytes.value_or(0) << " B held");
  const TempFolder folder;
  const auto shard = Open(config, folder / "db");
  const auto undisturbed = Open(config, folder / "undisturbed");
  Traffic traffic(config, seed, keys, most);
  Random random(seed + 1000);
  const auto go_on = [&](uint64_t requests) {
    for (; requests > 0; --requests) traffic.Step({shard.get(), undisturbed.get()});
  };
  std::vector<std::vector<Rows>> cuts;
  for (int64_t c = 0; c < 4; ++c) {
    go_on(random.Below(250));
    cuts.push_back(AllRowsOf(config, undisturbed.get()));
    ASSERT_TRUE(
        shard->Freeze(c, {.folder = folder / "commits" / std::to_string(c) / "shard"}).ok());
    go_on(random.Below(120));  // some are over by then, some only with the next line
    if (shard->CheckpointOf(c) == std::nullopt) {
      EXPECT_TRUE(absl::IsFailedPrecondition(shard->Freeze(99, {.folder = folder / "no"})));
    }
    ASSERT_TRUE(shard->FinishCheckpoint().ok());
    ASSERT_EQ(shard->CheckpointOf(c), absl::OkStatus());
  }
  go_on(100);
  for (size_t c = 0; c < cuts.size(); ++c) {
    ASSERT_EQ(RowsIn(config, folder / "commits" / std::to_string(c) / "shard"), cuts[c])
        << "checkpoint " << c;
  }
  ASSERT_EQ(AllRowsOf(config, shard.get()), AllRowsOf(config, undisturbed.get()));
}

TEST(Checkpoint, HoldsTheRowsOfItsCutAndTheShardThoseOfNow) {
  for (const uint64_t seed : {1, 2}) {
    CompareWithUndisturbed(Tables(uint64_t{4} << 20), seed, 3000);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(Checkpoint, HoldsThemWithTheSmallestHotTiers) {
  for (const uint64_t seed : {4, 5}) {
    CompareWithUndisturbed(Tables(0), seed, 500);
    if (testing::Test::HasFatalFailure()) return;
  }
}

// Nothing may be held back: every eviction finishes the checkpoint on the spot.
TEST(Checkpoint, HoldsThemWhereNothingMayBeHeldBack) {
  for (const uint64_t held : {0, 2000}) {
    Config config = Tables(uint64_t{1} << 16);
    config.held_bytes = held;
    CompareWithUndisturbed(config, 8, 900);
    if (testing::Test::HasFatalFailure()) return;
  }
}

// Enough rows for table files of their own, which do not go through RocksDB's memory.
TEST(Checkpoint, HoldsThemWhereSlicesAreFiles) {
  Config config{.tables = {AlignSpec("a", 4, Optimizer(OptimizerKind::kAdagrad)), IdTable("b", 4)},
                .ram_bytes = uint64_t{16} << 20};
  for (const std::optional<uint64_t> held : {std::optional<uint64_t>(), {uint64_t{200'000}}}) {
    config.held_bytes = held;
    CompareWithUndisturbed(config, 21, 40'000, 1500);
    if (testing::Test::HasFatalFailure()) return;
  }
}

// The rules' state is the cut's: rows admitted, counted and forgotten later do not show.
TEST(Checkpoint, GoesOnAsTheShardDidAfterIt) {
  const Config config = Tables(uint64_t{1} << 20);
  const TempFolder folder;
  const auto shard = Open(config, folder / "db");
  Traffic before(config, 11, 700);
  for (int i = 0; i < 400; ++i) before.Step({shard.get()});
  ASSERT_TRUE(shard->Freeze(1, {.folder = folder / "c"}).ok());
  // What comes between the cut and its end must not be in it: the restored shard sees it anew.
  const auto compare = [&](Shard* restored) {
    Traffic more = before;
    for (int i = 0; i < 300; ++i) more.Step({restored});
    for (uint32_t t = 0; t < config.tables.size(); ++t) {
      ASSERT_EQ(RowsOf(restored, t), RowsOf(shard.get(), t)) << "table " << t;
    }
  };
  Traffic after = before;
  for (int i = 0; i < 300; ++i) after.Step({shard.get()});
  ASSERT_TRUE(shard->FinishCheckpoint().ok());
  ASSERT_TRUE(CloneCheckpoint(folder / "c", folder / "clone").ok());
  compare(Open(config, folder / "clone").get());
}

TEST(Checkpoint, OfNoRowsAndOfNoChanges) {
  const Config config = Tables(uint64_t{1} << 20);
  const TempFolder folder;
  const auto shard = Open(config, folder / "db");
  for (int64_t c = 0; c < 3; ++c) {
    const fs::path to = folder / std::to_string(c);
    ASSERT_TRUE(shard->Freeze(c, {.folder = to}).ok());
    ASSERT_TRUE(shard->FinishCheckpoint().ok());
    ASSERT_EQ(shard->CheckpointOf(c), absl::OkStatus());
    EXPECT_EQ(RowsIn(config, to), std::vector<Rows>(4));
  }
  EXPECT_TRUE(absl::IsFailedPrecondition(*shard->CheckpointOf(7))) << "none of that step";
}

// Nobody asks: Tend alone brings it to its end.
TEST(Checkpoint, IsWrittenWhileNobodyAsks) {
  const Config config = Tables(uint64_t{8} << 20);
  const TempFolder folder;
  const auto shard = Open(config, folder / "db");
  Traffic traffic(config, 13, 20'000);
  for (int i = 0; i < 1500; ++i) traffic.Step({shard.get()});
  ASSERT_TRUE(shard->Freeze(1, {.folder = folder / "c"}).ok());
  for (int i = 0; i < 4000 && !fs::exists(folder / "c" / "CURRENT"); ++i) {
    shard->Tend();
    ::usleep(1000);
  }
  ASSERT_TRUE(fs::exists(folder / "c" / "CURRENT"));
  ASSERT_TRUE(shard->FinishCheckpoint().ok());
  EXPECT_EQ(shard->CheckpointOf(1), absl::OkStatus());
}

// A folder that is there already: no checkpoint, and the shard is as if there never had been one.
TEST(Checkpoint, OneThatFailsLosesNothing) {
  const Config config = Tables(0);
  const TempFolder folder;
  const auto shard = Open(config, folder / "db");
  const auto other = Open(config, folder / "other");
  Traffic traffic(config, 17, 400);
  for (int i = 0; i < 200; ++i) traffic.Step({shard.get(), other.get()});
  fs::create_directories(folder / "taken" / "here");
  ASSERT_TRUE(shard->Freeze(1, {.folder = folder / "taken"}).ok());
  for (int i = 0; i < 200; ++i) traffic.Step({shard.get(), other.get()});
  ASSERT_TRUE(shard->FinishCheckpoint().ok());
  EXPECT_FALSE(shard->CheckpointOf(1)->ok());
  for (int i = 0; i < 200; ++i) traffic.Step({shard.get(), other.get()});
  ASSERT_TRUE(shard->Freeze(2, {.folder = folder / "next"}).ok());
  ASSERT_TRUE(shard->FinishCheckpoint().ok());
  ASSERT_EQ(shard->CheckpointOf(2), absl::OkStatus());
  EXPECT_EQ(RowsIn(config, folder / "next"), AllRowsOf(config, other.get()));
}

// Some slices find room and others not, as table files and in batches: no checkpoint, no row lost.
TEST(Checkpoint, ADiskThatFillsUpDuringTheSlicesLosesNothing) {
  for (const uint64_t ram_bytes : {uint64_t{64} << 20, uint64_t{2} << 20}) {
    SCOPED_TRACE(ram_bytes);
    SmallDisk disk(128);
    SAVIOR_NEEDS(disk);
    const Config config{
        .tables = {AlignSpec("a", 64, Optimizer(OptimizerKind::kAdagrad)), IdTable("b", 4)},
        .ram_bytes = ram_bytes};
    const TempFolder folder;
    const auto shard = Open(config, disk / "db");
    const auto other = Open(config, folder / "other");
    const uint64_t keys = ram_bytes > uint64_t{8} << 20 ? 40'000 : 1500;
    Traffic traffic(config, 31, keys, 2000);
    for (int i = 0; i < 60; ++i) traffic.Step({shard.get(), other.get()});
    disk.Fill(uint64_t{100} << 10);
    ASSERT_TRUE(shard->Freeze(1, {.folder = disk / "c"}).ok());
    for (int i = 0; i < 20; ++i) traffic.Step({shard.get(), other.get()});
    ASSERT_TRUE(shard->FinishCheckpoint().ok());
    EXPECT_TRUE(absl::IsResourceExhausted(*shard->CheckpointOf(1))) << *shard->CheckpointOf(1);
    for (int i = 0; i < 20; ++i) traffic.Step({shard.get(), other.get()});
    disk.Free();
    absl::Status next = absl::ResourceExhaustedError("");
    for (int64_t c = 2; c < 20 && absl::IsResourceExhausted(next); ++c) {
      ::usleep(600'000);  // RocksDB is asked to go on every half second
      fs::remove_all(disk / "c");
      ASSERT_TRUE(shard->Freeze(c, {.folder = disk / "c"}).ok());
      ASSERT_TRUE(shard->FinishCheckpoint().ok());
      next = *shard->CheckpointOf(c);
    }
    ASSERT_TRUE(next.ok()) << next;
    EXPECT_EQ(RowsIn(config, disk / "c"), AllRowsOf(config, other.get()));
  }
}

// A process that dies between Freeze and the end leaves a database that the next start throws
// away, and nothing that stands in the way of the same checkpoint made again.
TEST(Checkpoint, MayBeLeftHalfDone) {
  const Config config = Tables(uint64_t{1} << 20);
  const TempFolder folder;
  for (int life = 0; life < 3; ++life) {
    const auto shard = Open(config, folder / ("db" + std::to_string(life)));
    Traffic traffic(config, 19, 3000);
    for (int i = 0; i < 300; ++i) traffic.Step({shard.get()});
    ASSERT_TRUE(shard->Freeze(1, {.folder = folder / "c"}).ok());
    for (int i = 0; i < life; ++i) traffic.Step({shard.get()});
  }
  const auto shard = Open(config, folder / "db");
  if (fs::exists(folder / "c")) fs::remove_all(folder / "c");
  ASSERT_TRUE(shard->Freeze(1, {.folder = folder / "c"}).ok());
  ASSERT_TRUE(shard->FinishCheckpoint().ok());
  EXPECT_EQ(shard->CheckpointOf(1), absl::OkStatus());
}

struct Inodes {
  size_t files = 0, shared = 0;
};

// Table files of `folder`, and those that are the same file as one of `base`.
Inodes Compare(const fs::path& base, const fs::path& folder) {
  Inodes found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".sst") continue;
    ++found.files;
    std::error_code error;
    found.shared += fs::equivalent(entry.path(), base / entry.path().filename(), error);
  }
  return found;
}

// On one file system, and from memory to disk: there the checkpoint is made locally, and what the
// one before lacks is copied.
TEST(Checkpoint, SharesTheFilesThatAreAsTheyWere) {
  for (const bool elsewhere : {false, true}) {
    SCOPED_TRACE(elsewhere ? "two file systems" : "one file system");
    const TempFolder folder;
    const fs::path live =
        elsewhere ? fs::path("/dev/shm") / folder.path().filename() : folder.path() / "live";
    if (elsewhere && !fs::is_directory("/dev/shm")) GTEST_SKIP() << "no second file system here";
    fs::create_directories(live);
    const Config config{.tables = {IdTable("t", 16)}, .ram_bytes = uint64_t{64} << 20};
    auto shard = Open(config, live / "shard-0");
    const auto push = [&](uint64_t begin, uint64_t end) {
      const std::vector<uint64_t> keys = Keys(begin, end);
      const std::vector<float> grads(keys.size() * 16, 1.0f);
      const WritePart part{.table = 0, .selection = {keys, {}}, .values = grads.data()};
      ASSERT_TRUE(shard->Push(1, {&part, 1}).ok());
    };
    const auto write = [&](int64_t step, const fs::path& base) {
      const fs::path to = folder / std::to_string(step);
      ASSERT_TRUE(shard->Freeze(step, {.folder = to, .base = base}).ok());
      ASSERT_TRUE(shard->FinishCheckpoint().ok());
      ASSERT_EQ(shard->CheckpointOf(step), absl::OkStatus());
    };
    push(0, 20'000);
    write(1, {});
    push(0, 100);
    write(2, folder / "1");
    const Inodes found = Compare(folder / "1", folder / "2");
    EXPECT_GE(found.shared, 1u);
    EXPECT_GT(found.files, found.shared) << "the changed rows are in a new file";
    EXPECT_FALSE(fs::exists(live / "shard-0.checkpoint"));
    const Rows now = RowsOf(shard.get(), 0);
    fs::remove_all(folder / "1");
    shard.reset();
    fs::remove_all(live);
    EXPECT_EQ(RowsIn(config, folder / "2"), std::vector<Rows>{now});
  }
}

TEST(HeldWrites, TheNewestValueIsFoundUntilItIsWritten) {
  HeldWrites held;
  EXPECT_EQ(held.Find(1), nullptr);
  held.Put(1, "one");
  held.Put(2, "two");
  held.Put(3, "three");
  EXPECT_EQ(held.Take(2), (std::vector<uint64_t>{1, 2}));
  held.Put(2, "zwei");  // while "two" is being written
  EXPECT_EQ(*held.Find(2), "zwei");
  held.Written(std::vector<uint64_t>{1, 2});
  EXPECT_FALSE(held.Contains(1));
  EXPECT_EQ(*held.Find(2), "zwei");
  EXPECT_EQ(held.Take(9), (std::vector<uint64_t>{2, 3}));
  EXPECT_TRUE(held.Take(9).empty());
  held.Failed(std::vector<uint64_t>{2, 3});
  held.Put(3, "drei");
  EXPECT_EQ(held.Take(9), (std::vector<uint64_t>{2, 3}));
  held.Written(std::vector<uint64_t>{2, 3});
  EXPECT_TRUE(held.empty());
  EXPECT_EQ(held.bytes(), 0u);
}

}  // namespace
}  // namespace savior
