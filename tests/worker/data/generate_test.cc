#include "worker/data/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/worker/data/raw_tables.h"
#include "worker/data/batch.h"
#include "worker/data/generate_truth.h"
#include "worker/data/prepare.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using testing::Folder;

GenerateOptions Small(const fs::path& out) {
  GenerateOptions options{.out = out};
  options.users = 200;
  options.items = 400;
  options.days = 10;
  options.clusters = 12;
  options.vector_dim = 32;
  return options;
}

TEST(Generate, SameOptionsSameBytes) {
  const Folder folder;
  GenerateOptions options = Small(folder / "a");
  ASSERT_TRUE(Generate(options).ok());
  const auto first = testing::FilesOf(options.out);
  ASSERT_TRUE(Generate(options).ok());  // replaces what it made
  EXPECT_TRUE(testing::FilesOf(options.out) == first);
  options.seed = 2;
  ASSERT_TRUE(Generate(options).ok());
  EXPECT_FALSE(testing::FilesOf(options.out) == first);
}

TEST(Generate, PrepareReadsAllParts) {
  const Folder folder;
  GenerateOptions options = Small(folder / "raw");
  options.rows_per_part = 150;
  options.image_dim = 8;
  options.no_vector = 0.1;
  const auto generated = Generate(options);
  ASSERT_TRUE(generated.ok()) << generated.status();
  EXPECT_GT(std::distance(fs::directory_iterator(options.out / "item_vectors"), {}), 0);
  const auto prepared = Prepare({.raw = options.out, .out = folder / "log"});
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_EQ(prepared->impressions, generated->impressions);
  EXPECT_EQ(prepared->requests, generated->requests);
  EXPECT_EQ(prepared->behaviours, generated->clicks + generated->conversions);
  EXPECT_EQ(prepared->items, options.items);
  EXPECT_GT(prepared->items_without_vector, 10);
  EXPECT_LT(prepared->items_without_vector, 100);
  const auto log = TrainingLog::Open(folder / "log");
  ASSERT_TRUE(log.ok()) << log.status();
  ASSERT_EQ((*log)->schema().modalities.size(), 2u);
  EXPECT_EQ((*log)->schema().modalities[1].dim, 8);
  EXPECT_EQ((*log)->days().size(), 10u);
}

// Among the period's new items alone: clicks follow the planted preference, and impressions are
// never earlier than the listing.
TEST(Generate, NewItemsAreClickedAsPlanted) {
  const Folder folder;
  const GenerateOptions options = Small(folder / "raw");
  ASSERT_TRUE(Generate(options).ok());
  const auto prepared = PrepareOptions{.raw = options.out, .out = folder / "log"};
  ASSERT_TRUE(Prepare(prepared).ok());
  const auto log = TrainingLog::Open(folder / "log");
  ASSERT_TRUE(log.ok()) << log.status();
  const PlantedTruth truth(options);
  const auto reader = BatchReader::Create(
      log->get(), {.period = {0, int64_t{1} << 40}, .requests_per_batch = 1 << 20});
  ASSERT_TRUE(reader.ok());
  const auto batch = (*reader)->Read(0);
  ASSERT_TRUE(batch.ok());

  double clicks[2] = {}, expected[2] = {}, rows[2] = {};  // below and above the middle
  for (size_t r = 0; r < batch->users.size(); ++r) {
    const int64_t user = ((*log)->user_ids()[static_cast<size_t>(batch->users[r])] - 500) / 7;
    for (auto row = batch->row_offsets[r]; row < batch->row_offsets[r + 1]; ++row) {
      const auto item = batch->items[static_cast<size_t>(row)];
      EXPECT_LE(truth.listed_at(item), batch->timestamps[r]);
      if (truth.listed_at(item) < options.start) continue;
      const double probability = truth.ClickProbability(user, item);
      const int side = probability < 0.35 ? 0 : 1;
      clicks[side] += static_cast<double>(batch->clicks[static_cast<size_t>(row)]);
      expected[side] += probability;
      rows[side] += 1;
    }
  }
  for (const int side : {0, 1}) {
    ASSERT_GT(rows[side], 500) << side;
    EXPECT_NEAR(clicks[side] / rows[side], expected[side] / rows[side], 0.06) << side;
  }
  EXPECT_GT(clicks[1] / rows[1], 1.5 * clicks[0] / rows[0]);
}

TEST(Generate, ContentTellsTheCluster) {
  const GenerateOptions options = Small("unused");
  const PlantedTruth truth(options);
  std::vector<std::vector<float>> vectors;
  for (int64_t i = 0; i < options.items; ++i) {
    truth.Vector(i, 0, vectors.emplace_back(static_cast<size_t>(options.vector_dim)));
  }
  int same = 0;
  for (size_t i = 0; i < vectors.size(); ++i) {
    size_t nearest = i;
    double best = 1e9;
    for (size_t j = 0; j < vectors.size(); ++j) {
      double distance = 0;
      for (size_t d = 0; d < vectors[i].size(); ++d) {
        distance += std::pow(vectors[i][d] - vectors[j][d], 2);
      }
      if (i != j && distance < best) {
        best = distance;
        nearest = j;
      }
    }
    same += truth.cluster(static_cast<int64_t>(i)) == truth.cluster(static_cast<int64_t>(nearest));
  }
  EXPECT_GT(same, 380);
}

TEST(Generate, DriftTurnsWhatIsNewAndOnlyThat) {
  GenerateOptions still = Small("unused");
  GenerateOptions drifting = still;
  drifting.drift = 1.0;
  const PlantedTruth before(still), after(drifting);
  for (int64_t i = 0; i < still.items; ++i) {
    std::vector<float> a(32), b(32);
    before.Vector(i, 0, a);
    after.Vector(i, 0, b);
    EXPECT_EQ(a == b, before.listed_at(i) < still.start) << i;
  }
}

TEST(Generate, RefusesOptionsOutOfBounds) {
  const Folder folder;
  const std::vector<std::function<void(GenerateOptions*)>> spoils = {
      [](auto* o) { o->users = 0; },        [](auto* o) { o->items = 0; },
      [](auto* o) { o->days = -1; },        [](auto* o) { o->requests_per_user_day = 0; },
      [](auto* o) { o->candidates = 300; }, [](auto* o) { o->clusters = 500; },
      [](auto* o) { o->vector_dim = 0; },   [](auto* o) { o->arrivals = 1.0; },
      [](auto* o) { o->drift = 2.0; },      [](auto* o) { o->start = 5; },
      [](auto* o) { o->rows_per_part = 0; }};
  for (const auto& spoil : spoils) {
    GenerateOptions options = Small(folder / "raw");
    spoil(&options);
    EXPECT_TRUE(absl::IsInvalidArgument(Generate(options).status()));
    EXPECT_FALSE(fs::exists(options.out));
  }
}

TEST(Generate, SmallestDataSet) {
  const Folder folder;
  GenerateOptions options{.out = folder / "raw"};
  options.users = options.items = options.days = options.candidates = options.clusters = 1;
  const auto generated = Generate(options);
  ASSERT_TRUE(generated.ok()) << generated.status();
  EXPECT_EQ(generated->impressions, 1);
  const auto prepared = Prepare({.raw = options.out, .out = folder / "log"});
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_EQ(prepared->items, 1);
}

TEST(Generate, WritesTheTruth) {
  const Folder folder;
  const GenerateOptions options = Small(folder / "raw");
  const auto generated = Generate(options);
  ASSERT_TRUE(generated.ok());
  std::ifstream file(options.out / "truth.json");
  const auto truth = nlohmann::json::parse(file);
  EXPECT_EQ(truth.at("cluster_qualities").size(), 12u);
  EXPECT_EQ(truth.at("impressions"), generated->impressions);
  EXPECT_TRUE(fs::exists(options.out / "truth/items/part-00000.parquet"));
  EXPECT_TRUE(fs::exists(options.out / "truth/users/part-00000.parquet"));
}

}  // namespace
}  // namespace savior
