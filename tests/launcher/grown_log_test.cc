// A run goes on over a training log that has grown: new days, new items, new users, new strings.

#include "launcher/grown_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "launcher/bundle_export.h"
#include "launcher/refresh_command.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/growing_world.h"
#include "tests/launcher/refresh_run.h"
#include "worker/step_inputs.h"
#include "worker/tables.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::RawData;

constexpr int kBefore = 6, kAfter = 9;

// One world, and one run that trained on its first days and then on the next ones.
class GrownLogTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    world_ = new RawData(WholeWorld());
    WriteWorld(KnownBy(*world_, kBefore + 1), folder_->path());
    RunToTheEnd(Before("twice"));
    steps_before_ = NewestOf(Before("twice")).step;
    Grow();
    RunToTheEnd(After("twice"), /*resume=*/true);
  }
  static void TearDownTestSuite() {
    delete world_;
    delete folder_;
  }
  // Every test finds the data as it was before.
  void SetUp() override { WriteWorld(KnownBy(*world_, kBefore + 1), folder_->path()); }

  static Config Before(const std::string& name) { return WorldRun(folder_->path(), name, kBefore); }
  static Config After(const std::string& name) { return WorldRun(folder_->path(), name, kAfter); }
  static void Grow() { WriteWorld(KnownBy(*world_, kAfter + 1), folder_->path()); }
  static CommitManifest NewestOf(const Config& config) {
    return NewestCommit(fs::path(config.run.dir) / "commits")->manifest;
  }
  static std::unique_ptr<TrainingLog> LogOf(const Config& config) {
    auto log = OpenOrPrepare(config);
    EXPECT_TRUE(log.ok()) << log.status();
    return *std::move(log);
  }
  static int64_t RowsBetween(int from, int until) {
    return std::ranges::count_if(world_->impressions, [=](const auto& row) {
      return row.time >= DayOf(from) && row.time < DayOf(until);
    });
  }
  // Trains until `stop` (0: to the end) on what is known.
  static void Train(Config config, int64_t stop) {
    config.train.max_steps = stop;
    RunToTheEnd(config, /*resume=*/true);
  }
  // The content rows of the newest commit hold exactly the log's contents; returns them.
  static std::map<uint64_t, Row> ContentRowsOf(const Config& config, const TrainingLog& log) {
    std::map<uint64_t, Row> rows = LearnedBy(config).tables.at("content");
    const std::vector<uint64_t> keys = ContentKeys(log);
    EXPECT_EQ(rows.size(), keys.size());
    for (const uint64_t key : keys) EXPECT_TRUE(rows.contains(key)) << key;
    return rows;
  }
  static std::vector<int32_t> CodesIn(const Row& row, const Config& config, uint32_t version) {
    const size_t from = ContentLayout::Of(config).codes(version);
    std::vector<int32_t> codes;
    for (int64_t l = 0; l < config.codebook.levels; ++l) {
      codes.push_back(static_cast<int32_t>(row.weights[from + static_cast<size_t>(l)]));
    }
    return codes;
  }
  static Config Refreshed(Config config) {
    OpenGates(&config);
    config.refresh.at_step = 4;
    config.refresh.switch_after_steps = 4;
    config.refresh.cpu_share = 1;
    config.refresh.hysteresis = 1;
    config.refresh.probation_steps = 10'000;
    return config;
  }
  static std::unique_ptr<Codebook> CodebookIn(const Config& config, const char* file) {
    const Commit commit = *NewestCommit(fs::path(config.run.dir) / "commits");
    return *LoadCodebook(*ReadTensorFile(commit.folder / file));
  }
  // Whatever is refused, the run's folder is as it was and the run goes on over the right data.
  static void ExpectRefused(const Config& config, const std::string& what) {
    const std::string before = *ReadFile(fs::path(config.run.dir) / kResolvedFile);
    const absl::Status status = TrainQuietly(config, {.resume = true}).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr(what));
    EXPECT_EQ(*ReadFile(fs::path(config.run.dir) / kResolvedFile), before);
  }

  static TempFolder* folder_;
  static RawData* world_;
  static int64_t steps_before_;
};
TempFolder* GrownLogTest::folder_ = nullptr;
RawData* GrownLogTest::world_ = nullptr;
int64_t GrownLogTest::steps_before_ = 0;

TEST_F(GrownLogTest, EveryRequestIsTrainedOnOnce) {
  Config config = Before("once");
  int64_t requests = 0, rows = 0, steps = 0;
  RunOptions options{.resume = true};
  options.after_step = [&](int64_t step, const StepFigures& figures) {
    EXPECT_EQ(step, steps++);
    requests += figures.requests;
    rows += figures.rows;
  };
  ASSERT_TRUE(TrainQuietly(config, options).ok());
  EXPECT_EQ(requests, kBefore * kRequestsPerDay);
  EXPECT_EQ(steps, (kBefore * kRequestsPerDay + 15) / 16);
  EXPECT_NE(kBefore * kRequestsPerDay % 16, 0) << "the last batch should be a small one";
  Grow();
  ASSERT_TRUE(TrainQuietly(After("once"), options).ok());
  EXPECT_EQ(requests, kAfter * kRequestsPerDay);
  EXPECT_EQ(rows, RowsBetween(0, kAfter));
  const CommitManifest manifest = NewestOf(config);
  EXPECT_EQ(manifest.samples, rows);
  EXPECT_EQ(manifest.step, steps);
  EXPECT_EQ(manifest.trained_until, (std::vector<int64_t>{DayOf(kBefore), DayOf(kAfter)}));
  EXPECT_EQ(manifest.log_fingerprint, LogOf(After("once"))->fingerprint());
}

// In the old days, at their end and in the new days, before and after the data grew.
TEST_F(GrownLogTest, WhereverARunStoppedItIsTheSameRun) {
  const int64_t all = NewestOf(After("twice")).step;
  ASSERT_GT(all, steps_before_ + 4);
  for (const auto& [before, after] :
       {std::pair<int64_t, int64_t>{5, 0}, {steps_before_ - 1, steps_before_}, {0, all - 3}}) {
    SCOPED_TRACE(before);
    SCOPED_TRACE(after);
    SetUp();
    const std::string name = "stopped-" + std::to_string(before) + "-" + std::to_string(after);
    Train(Before(name), before);
    Grow();
    for (const int64_t stop : {after, after == 0 ? int64_t{0} : after + 2, int64_t{0}}) {
      Config config = After(name);
      config.ps.shards = 2;
      Train(config, stop);
    }
    ExpectSame(After("twice"), After(name));
  }
}

TEST_F(GrownLogTest, NewItemsHaveTheirCodesBeforeTheFirstStep) {
  Train(Before("new-items"), 0);
  Grow();
  Train(After("new-items"), steps_before_ + 1);
  const Config config = After("new-items");
  const auto log = LogOf(config);
  const std::map<uint64_t, Row> rows = ContentRowsOf(config, *log);
  const auto codebook = CodebookIn(config, kCodebookFile);
  const auto dim = static_cast<size_t>(config.encoder.dim);
  int64_t of_new_items = 0;
  for (const auto& [key, row] : rows) {
    const std::vector<float> z(row.weights.begin(), row.weights.begin() + static_cast<int>(dim));
    EXPECT_NE(z, std::vector<float>(dim)) << key;
    const std::vector<int32_t> codes = codebook->Quantise(z);
    EXPECT_EQ(CodesIn(row, config, 0), codes) << key;
    EXPECT_EQ(CodesIn(row, config, 1), codes) << key;  // so that no slot holds what are no codes
    of_new_items += std::ranges::any_of(world_->items, [&, k = key](const auto& item) {
      return static_cast<uint64_t>(item.id) == k && item.listed >= DayOf(kBefore);
    });
  }
  EXPECT_GT(of_new_items, 10);
  // They were ranked in that very step: each has an ID row that was learnt in it.
  int64_t learnt = 0;
  const Learned learned = LearnedBy(config);
  for (const auto& [key, row] : learned.tables.at("item")) {
    const auto item =
        std::ranges::find(world_->items, static_cast<int64_t>(key), &testing::RawItem::id);
    ASSERT_NE(item, world_->items.end());
    if (item->listed < DayOf(kBefore)) continue;
    ++learnt;
    EXPECT_EQ(row.updates, 1u);
  }
  EXPECT_GT(learnt, 3);
}

// Rows are keyed by ids and by hashes of strings, never by numbers and codes.
TEST_F(GrownLogTest, ACommitScoresTheSameRequestsTheSameOverTheGrownLog) {
  Train(Before("scores"), 0);
  const auto score = [](const std::string& name) {
    std::ostringstream out;
    const auto result = EvaluateRun(Before(name).run.dir, "", {}, out);
    EXPECT_TRUE(result.ok()) << result.status();
    return std::pair(out.str(), result->ctr[0].second.logloss);
  };
  const auto before = score("scores");
  const auto schema = LogOf(Before("scores"))->schema();
  Grow();
  const auto after = score("scores");
  EXPECT_EQ(before, after);
  const auto grown = LogOf(Before("scores"));
  EXPECT_NE(schema.context_features[0].vocabulary, grown->schema().context_features[0].vocabulary);
  EXPECT_EQ(grown->schema().context_features[0].vocabulary[1], "a new channel");
  EXPECT_GT(std::ranges::lower_bound(grown->item_ids(), 10'000) - grown->item_ids().begin(), 100);
}

TEST_F(GrownLogTest, WhatHasChangedIsRefusedByName) {
  const Config config = After("refused");
  Train(Before("refused"), 9);
  const auto changed = [&](const auto& change) {
    RawData raw = KnownBy(*world_, kAfter + 1);
    change(&raw);
    WriteWorld(raw, folder_->path());
  };
  changed([](RawData* raw) {
    raw->impressions[0].click = 1 - raw->impressions[0].click, raw->impressions[0].conversion = 0;
  });
  ExpectRefused(config, "2023-11-15: 'click' has other values");
  changed([](RawData* raw) { (*raw->vectors[7].text)[3] += 0.5f; });
  ExpectRefused(config, "item " + std::to_string(world_->vectors[7].id) + " has another vector");
  changed([](RawData* raw) { raw->behaviours[0].kind = "other"; });
  ExpectRefused(config, "'history' has other values");

  Grow();
  Config earlier = config;
  earlier.data.train_until = DateOf(kBefore - 1);
  ExpectRefused(earlier, "data.train_until = 2023-11-20");
  Config twice = config;
  twice.train.epochs = 2;
  ExpectRefused(twice, "train.epochs = 2");
  Config other = config;
  other.data.train_from = DateOf(1);
  ExpectRefused(other, "data.train_from");
  Train(config, 0);
  ExpectSame(After("twice"), config);
}

TEST_F(GrownLogTest, ARunOfTwoEpochsDoesNotGoOnOverNewDays) {
  Config config = Before("two-epochs");
  config.train.epochs = 2;
  RunToTheEnd(config);
  Grow();
  ExpectRefused(After("two-epochs"), "train.epochs = 2");
  // The same days are no new ones.
  config.train.max_steps = 0;
  RunToTheEnd(config, /*resume=*/true);
}

TEST_F(GrownLogTest, ALaterEndOfTheSameLogGoesOnToo) {
  Grow();
  Train(Before("same-log"), 0);
  Train(After("same-log"), 0);
  // The content was trained on what was known: items listed later are in the log, but not learnt
  // from.
  EXPECT_EQ(NewestOf(After("same-log")).step, NewestOf(After("twice")).step);
  EXPECT_EQ(NewestOf(After("same-log")).samples, NewestOf(After("twice")).samples);
}

TEST_F(GrownLogTest, NothingNewIsNothingToDoAndMoreMayCome) {
  Config quiet = Before("quiet");
  Train(quiet, 0);
  // Items, but no requests; then a period that grows by a day without any.
  RawData raw = KnownBy(*world_, kAfter + 1);
  std::erase_if(raw.impressions, [](const auto& row) { return row.time >= DayOf(kBefore); });
  std::erase_if(raw.behaviours, [](const auto& row) { return row.time >= DayOf(kBefore); });
  WriteWorld(raw, folder_->path());
  Train(quiet, 0);
  quiet.data.train_until = quiet.data.eval_from = DateOf(kBefore + 1);
  ::testing::internal::CaptureStderr();
  Train(quiet, 0);
  EXPECT_EQ(NewestOf(quiet).step, steps_before_);
  // What comes of that day later is lost to this run.
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              HasSubstr("data.train_until = " + DateOf(kBefore + 1) +
                        " lies beyond the data: the data's requests are from " + DateOf(0) +
                        " to " + DateOf(kBefore - 1) + "; with train_until = " + DateOf(kBefore)));
  // Then come requests, of the day after.
  const RawData all = KnownBy(*world_, kAfter + 1);
  for (const auto& row : all.impressions) {
    if (row.time >= DayOf(kBefore + 1)) raw.impressions.push_back(row);
  }
  WriteWorld(raw, folder_->path());
  Train(After("quiet"), 0);
  EXPECT_EQ(NewestOf(quiet).samples, RowsBetween(0, kBefore) + RowsBetween(kBefore + 1, kAfter));
  ContentRowsOf(After("quiet"), *LogOf(After("quiet")));
}

// Both codes; where the encoder was refreshed as well, both vectors.
TEST_F(GrownLogTest, WhileACodebookIsOnProbationNewItemsHaveBothCodes) {
  const auto with_refresh = [](Config config, bool encoder) {
    config.encoder.refreshable = encoder;
    return Refreshed(config);
  };
  const auto name = [](bool encoder) { return encoder ? "probation-encoder" : "probation"; };
  for (const bool encoder : {false, true}) {
    Train(with_refresh(Before(name(encoder)), encoder), 0);
    ASSERT_EQ(NewestOf(Before(name(encoder))).codebook.version, 1u);
  }
  Grow();
  for (const bool encoder : {false, true}) {
    SCOPED_TRACE(name(encoder));
    const Config config = with_refresh(After(name(encoder)), encoder);
    Train(config, 0);
    EXPECT_EQ(NewestOf(config).codebook.encoder, encoder ? 1u : 0u);
    const auto used = CodebookIn(config, kCodebookFile);
    const auto previous = CodebookIn(config, kPreviousCodebookFile);
    const std::map<uint64_t, Row> rows = ContentRowsOf(config, *LogOf(config));
    const auto z_of = [&](const Row& row, uint32_t version) {
      const ContentLayout layout = ContentLayout::Of(config);
      const auto from = row.weights.begin() + static_cast<std::ptrdiff_t>(layout.z(version));
      return std::vector<float>(from, from + config.encoder.dim);
    };
    int64_t codes_differ = 0, z_differ = 0;
    for (const auto& [key, row] : rows) {
      EXPECT_EQ(CodesIn(row, config, 1), used->Quantise(z_of(row, 1))) << key;
      EXPECT_EQ(CodesIn(row, config, 0), previous->Quantise(z_of(row, 0))) << key;
      codes_differ += CodesIn(row, config, 0) != CodesIn(row, config, 1);
      z_differ += z_of(row, 0) != z_of(row, 1);
    }
    EXPECT_GT(codes_differ, 0);
    EXPECT_EQ(z_differ, encoder ? std::ssize(rows) : 0);
  }
}

// Of a run that stands still.
// The build is begun again over the grown log; until its switch, new items have the codes in use.
TEST_F(GrownLogTest, WhatComesWhileACodebookIsBuiltHasItsCodesToo) {
  constexpr int64_t kInTheBuild = 6;
  Train(Refreshed(Before("building")), kInTheBuild);
  ASSERT_THAT(StatesOf(Before("building")), ::testing::ElementsAre("BUILDING"));
  Grow();
  const Config config = Refreshed(After("building"));
  Train(config, kInTheBuild + 2);
  EXPECT_EQ(NewestOf(config).codebook.version, 0u);
  const auto in_use = CodebookIn(config, kCodebookFile);
  const auto z_of = [&](const Row& row) {
    return std::vector<float>(row.weights.begin(), row.weights.begin() + config.encoder.dim);
  };
  for (const auto& [key, row] : ContentRowsOf(config, *LogOf(config))) {
    EXPECT_EQ(CodesIn(row, config, 0), in_use->Quantise(z_of(row))) << key;
  }
  Train(config, 0);
  EXPECT_EQ(NewestOf(config).codebook.version, 1u);
  const auto next = CodebookIn(config, kCodebookFile);
  for (const auto& [key, row] : ContentRowsOf(config, *LogOf(config))) {
    EXPECT_EQ(CodesIn(row, config, 1), next->Quantise(z_of(row))) << key;
  }
}

TEST_F(GrownLogTest, ARollbackGoesToWhereTheRunCanGoOnFromOverTheDataAsItIs) {
  Train(Refreshed(Before("back")), 0);
  Grow();
  Config config = Refreshed(After("back"));
  Train(config, 0);
  ASSERT_EQ(StateOf(config).version, 1u);
  RawData changed = KnownBy(*world_, kAfter + 1);
  changed.impressions[0].click = 1 - changed.impressions[0].click;
  changed.impressions[0].conversion = 0;
  WriteWorld(changed, folder_->path());
  const fs::path commits = fs::path(config.run.dir) / "commits";
  const std::vector<fs::path> before = ListCommits(commits);
  std::ostringstream out;
  const absl::Status refused = RefreshCodebook({config.run.dir, {}, true, false}, out);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(refused.message(), HasSubstr("'click' has other values"));
  EXPECT_EQ(ListCommits(commits), before);
  Grow();
  const absl::Status done = RefreshCodebook({config.run.dir, {}, true, false}, out);
  ASSERT_TRUE(done.ok()) << done;
  EXPECT_EQ(StateOf(config).version, 0u);
  config.refresh.at_step = 0;
  Train(config, 0);
  EXPECT_EQ(ResultOf(config), ResultOf(After("twice")));
  EXPECT_EQ(InUse(config), InUse(After("twice")));
}

TEST_F(GrownLogTest, ABundleOfACommitFromBeforeHasTheNewItems) {
  const Config config = Before("bundle");
  Train(config, 0);
  const fs::path full = folder_->path() / "full", chain = folder_->path() / "chain";
  ASSERT_TRUE(ExportBundle({.from = config.run.dir, .out = chain, .golden = 8}).ok());
  Grow();
  const auto bundle = ExportBundle({.from = config.run.dir, .out = full, .golden = 30});
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  EXPECT_GT(bundle->manifest.new_contents, 10u);
  const auto rows = [](const Bundle& of, const std::string& table) {
    return std::ranges::find(of.manifest.tables, table, &BundleManifest::Table::name)->total;
  };
  EXPECT_EQ(rows(*bundle, "items"), KnownBy(*world_, kAfter + 1).items.size());
  EXPECT_EQ(rows(*bundle, "content"), static_cast<uint64_t>(LogOf(config)->num_contents()));
  const auto verified = VerifyBundle(full, bundle->version());
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_LE(verified->parity.max_difference, 1e-5);
  EXPECT_GT(verified->rows_compared, 100);

  // A delta over growth amounts to a full export, strings with other codes included.
  Train(After("bundle"), 0);
  const int64_t step = NewestOf(config).step;
  const fs::path whole = folder_->path() / "whole", merged = folder_->path() / "merged";
  const auto delta =
      ExportBundle({.from = config.run.dir, .out = chain, .since = steps_before_, .golden = 30});
  ASSERT_TRUE(delta.ok()) << delta.status();
  EXPECT_EQ(delta->manifest.new_contents, 0u);  // the commit knows them by now
  ASSERT_TRUE(ExportBundle({.from = config.run.dir, .out = whole, .golden = 30}).ok());
  ASSERT_TRUE(MergeBundle(chain, BundleName(step), merged).ok());
  for (const char* table : {"item", "feature", "items", "content", "aligned"}) {
    EXPECT_EQ(*ReadFile(merged / BundleName(step) / TableFileName(table)),
              *ReadFile(whole / BundleName(step) / TableFileName(table)))
        << table;
  }
  for (const fs::path& dir : {chain, whole}) {
    const auto proved = VerifyBundle(dir, BundleName(step));
    ASSERT_TRUE(proved.ok()) << proved.status();
    EXPECT_LE(proved->parity.max_difference, 1e-5);
  }
}

TEST_F(GrownLogTest, ABundleOverOtherDataIsRefused) {
  const Config config = Before("other-data");
  Train(config, 5);
  RawData raw = KnownBy(*world_, kAfter + 1);
  raw.impressions[2].channel = "other";
  WriteWorld(raw, folder_->path());
  const auto bundle =
      ExportBundle({.from = config.run.dir, .out = folder_->path() / "none", .golden = 8});
  EXPECT_TRUE(absl::IsFailedPrecondition(bundle.status())) << bundle.status();
  EXPECT_THAT(bundle.status().message(), HasSubstr("2023-11-15: 'ctx_channel'"));
}

}  // namespace
}  // namespace savior
