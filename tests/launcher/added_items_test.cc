// Items that no training data has yet are ranked by the next bundle: by id, as by their vectors.

#include "launcher/added_items.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "launcher/bundle_export.h"
#include "serving/bundle_model.h"
#include "serving/bundle_scorer.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/growing_world.h"
#include "tests/launcher/publishing_run.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::RawData;
using testing::RawItem;

constexpr int kUntil = 4;
constexpr int64_t kNew = 700'001, kTwin = 700'002, kBare = 700'003, kOldVector = 700'004;

// One world and one run with commits at steps 5 and its end.
class AddedItemsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    world_ = new RawData(KnownBy(WholeWorld(), kUntil + 1));
    WriteWorld(*world_, folder_->path());
    Config config = WorldRun(folder_->path(), "template", kUntil);
    config.train.max_steps = 5;
    config.commit.keep = 10;
    RunToTheEnd(config);
    config.train.max_steps = 0;
    RunToTheEnd(config, /*resume=*/true);
  }
  static void TearDownTestSuite() {
    delete world_;
    delete folder_;
  }
  // Every test has a copy of the run.
  void SetUp() override {
    run_ = folder_->path() / ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::copy(folder_->path() / "template", run_, fs::copy_options::recursive);
  }

  static RawItem Item(int64_t id, const std::string& brand = "brand 1") {
    return {.id = id, .listed = DayOf(kUntil) + 7, .title = "new", .brand = brand, .price = 42};
  }
  static std::vector<float> Vector(float first) {
    std::vector<float> vector(16, 0.25f);
    vector[0] = first;
    return vector;
  }
  // Two items of one content, one without a vector, one whose content the log has; a brand that
  // nobody had before.
  static RawData Some() {
    RawData raw;
    raw.items = {Item(kBare), Item(kTwin), Item(kNew, "a new brand"), Item(kOldVector)};
    raw.vectors = {{.id = kNew, .text = Vector(-1)},
                   {.id = kTwin, .text = Vector(-1)},
                   {.id = kOldVector, .text = world_->vectors[3].text}};
    return raw;
  }
  static std::map<std::string, testing::Columns> CatalogueOf(const RawData& raw) {
    auto tables = raw.Tables();
    tables.erase("impressions");
    tables.erase("behaviours");
    return tables;
  }
  absl::Status Add(const std::map<std::string, testing::Columns>& tables) {
    const fs::path from = run_ / "given";
    fs::remove_all(from);
    testing::WriteTables(tables, from);
    said_.str("");
    return AddItems({.run = run_.string(), .items = from.string()}, said_);
  }
  absl::Status Add(const RawData& raw) { return Add(CatalogueOf(raw)); }
  std::vector<fs::path> Catalogues() const {
    std::vector<fs::path> folders;
    for (const auto& entry : fs::directory_iterator(run_ / "items")) {
      if (entry.path().filename().string().find('-') != std::string::npos) {
        folders.push_back(entry.path());
      }
    }
    std::ranges::sort(folders);
    return folders;
  }
  fs::path FirstCommit() const { return ListCommits(run_ / "commits").front(); }
  static std::vector<double> Scores(const fs::path& bundles, const std::vector<Candidate>& of) {
    const BundleChain chain = *OpenChain(bundles, *CurrentBundle(bundles), true);
    const auto scorer = ScorerOf(chain);
    EXPECT_TRUE(scorer.ok()) << scorer.status();
    RankRequest request;
    request.user = static_cast<uint64_t>(world_->impressions[0].user);
    request.timestamp = DayOf(kUntil) + 3600;
    for (size_t i = 0; i < 5; ++i) {
      request.history.push_back(
          {static_cast<uint64_t>(world_->behaviours[i].item), world_->behaviours[i].time});
    }
    request.candidates = of;
    const auto scores = (*scorer)->Rank(request);
    EXPECT_TRUE(scores.ok()) << scores.status();
    return {scores->p_ctr.begin(), scores->p_ctr.end()};
  }
  static Candidate ById(int64_t id) {
    Candidate candidate;
    candidate.item = static_cast<uint64_t>(id);
    return candidate;
  }
  static Candidate ByVector(const RawItem& item, const std::vector<float>& vector) {
    Candidate candidate;
    candidate.vectors["text"] = vector;
    candidate.listed_at = item.listed;
    candidate.features["feat_brand"] = item.brand;
    candidate.numerics["num_price"] = *item.price;
    return candidate;
  }

  static TempFolder* folder_;
  static RawData* world_;
  fs::path run_;
  std::ostringstream said_;
};
TempFolder* AddedItemsTest::folder_ = nullptr;
RawData* AddedItemsTest::world_ = nullptr;

TEST_F(AddedItemsTest, AreRankedByIdAsByTheirVectors) {
  ASSERT_TRUE(Add(Some()).ok()) << said_.str();
  EXPECT_THAT(said_.str(), HasSubstr("4 items added, 0 were known"));
  const fs::path out = run_ / "bundles";
  const auto bundle = ExportBundle({.from = run_, .out = out, .golden = 20});
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  EXPECT_EQ(bundle->manifest.new_contents, 1u);
  const auto verified = VerifyBundle(out, bundle->version());
  ASSERT_TRUE(verified.ok()) << verified.status();
  Candidate both = ByVector(Item(kNew, "a new brand"), Vector(-1));
  both.item = static_cast<uint64_t>(kNew);
  const std::vector<double> scores =
      Scores(out, {ById(kNew), both, ByVector(Item(kNew, "a new brand"), Vector(-1)), ById(kTwin),
                   ByVector(Item(kTwin), Vector(-1)), ById(kBare), ById(world_->items[0].id)});
  EXPECT_NEAR(scores[0], scores[1], 1e-6);
  // Without an id there is another new item's random row: a little apart.
  EXPECT_NEAR(scores[0], scores[2], 1e-3);
  EXPECT_NEAR(scores[3], scores[4], 1e-3);
  EXPECT_GT(std::abs(scores[0] - scores[6]), 1e-5);

  // The same codes as the request's vector gets: z and codes of the bundle.
  const BundleChain chain = *OpenChain(out, bundle->version(), false);
  const TableChain content = *chain.Table("content"), items = *chain.Table("items");
  const auto codebook = *LoadCodebook(*ReadTensorFile(bundle->folder / kCodebookFile));
  const auto encoder = *LoadEncoder(*ReadTensorFile(bundle->folder / kEncoderFile));
  const auto place = content.Find(kNew);
  ASSERT_TRUE(place);
  std::vector<std::byte> record(content.files()[0]->record_bytes());
  place->file->CopyRecord(place->row, record.data());
  std::vector<float> z(16);
  std::vector<uint16_t> codes(2);
  std::memcpy(z.data(), record.data(), 64);
  std::memcpy(codes.data(), record.data() + 64, 4);
  std::vector<float> x = Vector(-1);
  double length = 0;
  for (const float v : x) length += static_cast<double>(v) * v;
  for (float& v : x) v = static_cast<float>(v / std::sqrt(length));
  const std::vector<float> of_vector = encoder->Encode(x);
  for (size_t d = 0; d < z.size(); ++d) EXPECT_NEAR(z[d], of_vector[d], 1e-6);
  EXPECT_TRUE(std::ranges::equal(codebook->Quantise(of_vector), codes));
  // Items of one content share it, and an old content is the old one.
  EXPECT_FALSE(content.Find(kTwin));
  EXPECT_FALSE(content.Find(kOldVector));
  EXPECT_TRUE(items.Find(kTwin));
  EXPECT_TRUE(items.Find(kBare));
}

TEST_F(AddedItemsTest, ComeInADelta) {
  const fs::path chain = run_ / "chain", full = run_ / "full", merged = run_ / "merged";
  ASSERT_TRUE(ExportBundle({.from = FirstCommit(), .out = chain, .golden = 8}).ok());
  ASSERT_TRUE(Add(Some()).ok());
  const auto delta = ExportBundle({.from = run_, .out = chain, .since = 5, .golden = 20});
  ASSERT_TRUE(delta.ok()) << delta.status();
  ASSERT_TRUE(ExportBundle({.from = run_, .out = full, .golden = 20}).ok());
  ASSERT_TRUE(MergeBundle(chain, delta->version(), merged).ok());
  for (const char* table : {"items", "content", "aligned", "feature"}) {
    EXPECT_EQ(*ReadFile(merged / delta->version() / TableFileName(table)),
              *ReadFile(full / delta->version() / TableFileName(table)))
        << table;
  }
  const auto verified = VerifyBundle(chain, delta->version());
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ(Scores(chain, {ById(kNew), ById(kBare)}), Scores(full, {ById(kNew), ById(kBare)}));
}

// Given while a job trains and publishes: in its next bundles, and in no bit of what it learns.
TEST_F(AddedItemsTest, WhileAJobPublishes) {
  Config plain = WorldRun(folder_->path(), "plain", kUntil);
  plain.train.epochs = 6;
  RunToTheEnd(plain);
  Config config = ThatPublishes(WorldRun(folder_->path(), "publishing", kUntil));
  config.train.epochs = plain.train.epochs;
  run_ = config.run.dir;
  constexpr int64_t kGiven = 30;  // step
  const RunOptions options = WaitingForExports(config, [&](int64_t step) {
    if (step == kGiven) EXPECT_TRUE(Add(Some()).ok()) << said_.str();
  });
  std::ostringstream out;
  const auto result = Train(config, options, out);
  ASSERT_TRUE(result.ok()) << result.status();
  ExpectSame(plain, config);
  size_t before = 0, after = 0;
  for (const auto& [step, sequence] : BundlesIn(config.exports.dir)) {
    SCOPED_TRACE(step);
    const auto chain = OpenChain(config.exports.dir, BundleName(step), /*digests=*/true);
    ASSERT_TRUE(chain.ok()) << chain.status();
    const TableChain items = *chain->Table("items"), content = *chain->Table("content");
    const bool has = items.Find(kNew).has_value();
    EXPECT_EQ(items.Find(kBare).has_value(), has);
    EXPECT_EQ(content.Find(kNew).has_value(), has);
    // That of the very step may have been on its way.
    if (step != kGiven) EXPECT_EQ(has, step > kGiven);
    ++(step < kGiven ? before : after);
  }
  EXPECT_GE(before, 2u);
  EXPECT_GE(after, 2u);
  EXPECT_TRUE(VerifyBundle(config.exports.dir, *CurrentBundle(config.exports.dir)).ok());
}

TEST_F(AddedItemsTest, AgainChangesNothing) {
  ASSERT_TRUE(Add(Some()).ok());
  ASSERT_EQ(Catalogues().size(), 1u);
  ASSERT_TRUE(Add(Some()).ok());
  EXPECT_THAT(said_.str(), HasSubstr("nothing added: all 4 items are known"));
  EXPECT_EQ(Catalogues().size(), 1u);
  // One more, one of the log's, and the former ones.
  RawData more = Some();
  more.items.push_back(Item(-7));  // its key is the largest of all
  more.items.push_back(world_->items[0]);
  more.vectors.push_back(world_->vectors[0]);
  ASSERT_EQ(world_->vectors[0].id, world_->items[0].id);
  ASSERT_TRUE(Add(more).ok());
  EXPECT_THAT(said_.str(), HasSubstr("1 items added, 5 were known"));
  EXPECT_EQ(Catalogues().size(), 2u);
  // However the commit is named, what its run was given is found.
  const fs::path commit = ListCommits(run_ / "commits").back() / "";
  const auto bundle = ExportBundle({.from = commit, .out = run_ / "bundles", .golden = 8});
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  const auto items =
      std::ranges::find(bundle->manifest.tables, "items", &BundleManifest::Table::name);
  EXPECT_EQ(items->total, world_->items.size() + 5);
}

TEST_F(AddedItemsTest, WhatIsRefusedIsNamedAndNothingIsLeft) {
  ASSERT_TRUE(Add(Some()).ok());
  const auto refused = [&](const std::map<std::string, testing::Columns>& tables,
                           const std::vector<std::string>& what) {
    const absl::Status status = Add(tables);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    for (const std::string& part : what) EXPECT_THAT(status.message(), HasSubstr(part));
    EXPECT_FALSE(fs::exists(run_ / "items" / "incoming"));
    EXPECT_EQ(Catalogues().size(), 1u);
  };
  RawData fresh;
  fresh.items = {Item(800'000), Item(800'001)};
  fresh.vectors = {{.id = 800'001, .text = Vector(3)}};

  RawData raw = fresh;
  raw.items.push_back(Item(kTwin));
  raw.vectors.push_back({.id = kTwin, .text = Vector(9)});
  refused(CatalogueOf(raw), {"items.parquet: row 2, column 'item_id'", "700002 is known already"});
  raw = fresh;
  raw.items.push_back(world_->items[0]);
  raw.vectors.push_back({.id = world_->items[0].id, .text = Vector(9)});
  refused(CatalogueOf(raw), {"row 2, column 'item_id'", "10000 is known already"});
  raw = fresh;
  raw.items.push_back(Item(800'000));
  refused(CatalogueOf(raw), {"column 'item_id'", "800000 is there already"});
  raw = fresh;
  raw.items[1].listed = -1;
  refused(CatalogueOf(raw), {"row 1, column 'listed_at'", "is negative"});
  raw = fresh;
  raw.vectors[0].text->push_back(1);
  refused(CatalogueOf(raw), {"item_vectors.parquet", "'text'", "length 17, the run's items of 16"});

  auto tables = CatalogueOf(fresh);
  tables["items"].Drop("feat_brand");
  refused(tables, {"items.parquet", "'feat_brand'", "is missing"});
  tables = CatalogueOf(fresh);
  tables["items"].Set("num_weight", testing::Reals({1.0f, 2.0f}));
  refused(tables, {"items.parquet", "'num_weight'", "is unknown"});

  const absl::Status nowhere = AddItems({.run = (run_ / "none").string(), .items = "x"}, said_);
  EXPECT_TRUE(absl::IsNotFound(nowhere)) << nowhere;
  EXPECT_THAT(nowhere.message(), HasSubstr("no run there"));
  tables = CatalogueOf(fresh);
  tables.erase("item_vectors");
  EXPECT_TRUE(absl::IsNotFound(Add(tables)));
}

// A run that has not committed yet takes them, too: they wait for its first bundle.
TEST_F(AddedItemsTest, MayComeBeforeTheFirstCommit) {
  fs::remove_all(run_ / "commits");
  ASSERT_TRUE(Add(Some()).ok());
  EXPECT_EQ(Catalogues().size(), 1u);
}

TEST_F(AddedItemsTest, ADamagedCatalogueIsNamed) {
  ASSERT_TRUE(Add(Some()).ok());
  const fs::path file = Catalogues()[0] / "items.arrow";
  std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
  bytes.seekp(-200, std::ios::end);
  bytes.put('\x5a');
  bytes.close();
  const auto bundle = ExportBundle({.from = run_, .out = run_ / "bundles", .golden = 8});
  EXPECT_TRUE(absl::IsDataLoss(bundle.status())) << bundle.status();
  EXPECT_THAT(bundle.status().message(), HasSubstr(file.string()));
}

// What the log knows, the log says.
TEST_F(AddedItemsTest, TheLogWinsWhenItHasGrown) {
  ASSERT_TRUE(Add(Some()).ok());
  RawData grown = KnownBy(WholeWorld(), kUntil + 2);
  RawItem item = Item(kNew, "brand of the log");
  item.price = 3;
  grown.items.push_back(item);
  grown.vectors.push_back({.id = kNew, .text = Vector(5)});
  const TempFolder other;
  WriteWorld(grown, other.path());
  Config config = *LoadConfig((run_ / kResolvedFile).string(), {});
  config.data.raw = (other / "raw").string();
  config.run.dir = run_.string();
  config.data.train_until = config.data.eval_from = DateOf(kUntil + 1);
  config.data.eval_until = DateOf(kUntil + 2);
  RunToTheEnd(config, /*resume=*/true);
  const auto log = *OpenOrPrepare(config);
  const AddedItems left = *AddedItems::Of(run_, *log);
  EXPECT_EQ(left.Find(kNew), nullptr);
  ASSERT_NE(left.Find(kTwin), nullptr);
  EXPECT_EQ(left.Find(kTwin)->content_key, static_cast<uint64_t>(kTwin));  // its own by now
  const auto bundle = ExportBundle({.from = run_, .out = run_ / "bundles", .golden = 20});
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  const auto items =
      std::ranges::find(bundle->manifest.tables, "items", &BundleManifest::Table::name);
  EXPECT_EQ(items->total, grown.items.size() + 3);
  EXPECT_TRUE(VerifyBundle(run_ / "bundles", bundle->version()).ok());
  const std::vector<double> scores =
      Scores(run_ / "bundles", {ById(kNew), ByVector(item, Vector(5))});
  EXPECT_NEAR(scores[0], scores[1], 1e-3);
}

}  // namespace
}  // namespace savior
