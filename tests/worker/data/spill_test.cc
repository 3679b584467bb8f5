#include "worker/data/spill.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <map>

#include "common/random.h"
#include "tests/worker/data/raw_tables.h"

namespace savior {
namespace {

std::vector<int64_t> TakeAll(Spill* spill, int64_t partition) {
  const auto bytes = spill->Take(partition);
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  std::vector<int64_t> records(bytes->size() / sizeof(int64_t));
  if (!bytes->empty()) std::memcpy(records.data(), bytes->data(), bytes->size());
  return records;
}

TEST(Spill, KeepsTheOrderOfEachPartitionForAnyBudget) {
  for (const int64_t budget : {1, 100, 1000, 1'000'000}) {
    const testing::Folder folder;
    Spill spill(folder / "spill", sizeof(int64_t), budget);
    std::map<int64_t, std::vector<int64_t>> expected;
    Random random(static_cast<uint64_t>(budget));
    for (int64_t i = 0; i < 2000; ++i) {
      const auto partition = static_cast<int64_t>(random.Below(7)) - 3;
      expected[partition].push_back(i);
      ASSERT_TRUE(spill.Append(partition, &i).ok());
    }
    std::vector<int64_t> partitions;
    for (const auto& [partition, records] : expected) partitions.push_back(partition);
    EXPECT_EQ(spill.Partitions(), partitions);
    for (const auto& [partition, records] : expected) {
      EXPECT_EQ(TakeAll(&spill, partition), records) << "budget " << budget;
      EXPECT_TRUE(TakeAll(&spill, partition).empty());
    }
  }
}

TEST(Spill, RemovesItsFile) {
  const testing::Folder folder;
  {
    Spill spill(folder / "spill", sizeof(int64_t), 1);
    const int64_t record = 5;
    ASSERT_TRUE(spill.Append(0, &record).ok());
    EXPECT_TRUE(std::filesystem::exists(folder / "spill"));
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "spill"));
}

}  // namespace
}  // namespace savior
