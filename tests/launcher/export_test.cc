// From a commit to a bundle: it scores as the live model does, in every arm and precision; deltas;
// damage; a full disk.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <set>

#include "common/digest_cache.h"
#include "launcher/bundle_export.h"
#include "serving/bundle_model.h"
#include "serving/bundle_scorer.h"
#include "tests/common/small_disk.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/small_run.h"
#include "worker/step_inputs.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const std::vector<std::string> kFullTables = {"user",           "item",  "feature", "align",
                                              "content_vector", "items", "content", "aligned"};

// One world and one run with commits at steps 20, 40, 60 and its end, for all tests.
class ExportTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    MakeRaw(folder_->path());
    Config config = SmallRun(folder_->path(), "run");
    config.commit.every_steps = 20;
    config.commit.keep = 100;
    // Rows go, so that deltas have some to take back.
    config.ps.eviction_idle_steps = 15;
    config.ps.eviction_max_share_per_minute = 1;
    config.ps.steps_per_minute = 10;
    RunToTheEnd(config);
    run_ = new Config(config);
  }
  static void TearDownTestSuite() {
    delete run_;
    delete folder_;
  }

  static fs::path CommitAt(int64_t step) {
    return fs::path(run_->run.dir) / "commits" / ("commit-" + BundleName(step));
  }
  // Steps 20, 40 and 60 in `out`: a full bundle and two deltas.
  static void ExportChain(const fs::path& out) {
    for (const int64_t step : {20, 40, 60}) {
      ExportOptions options{.from = CommitAt(step), .out = out, .golden = 8};
      if (step > 20) options.since = step - 20;
      const auto bundle = ExportBundle(options);
      ASSERT_TRUE(bundle.ok()) << bundle.status();
      EXPECT_EQ(bundle->manifest.sequence, step / 20 - 1);
    }
  }
  // A bundle of `config`'s newest commit in `out` scores as the live model does.
  static void ExpectServedAsLearned(const Config& config, const fs::path& out) {
    const auto bundle = ExportBundle({.from = config.run.dir, .out = out, .golden = 40});
    ASSERT_TRUE(bundle.ok()) << bundle.status();
    EXPECT_FALSE(bundle->manifest.metrics.empty());
    const auto verified = VerifyBundle(out, bundle->version());
    ASSERT_TRUE(verified.ok()) << verified.status();
    EXPECT_EQ(verified->parity.requests, 40);
    EXPECT_LE(verified->parity.max_difference, 1e-5);
    EXPECT_GT(verified->rows_compared, 100);
  }
  static std::string TableBytes(const fs::path& dir, int64_t step, const std::string& table) {
    return *ReadFile(dir / BundleName(step) / TableFileName(table));
  }

  static TempFolder* folder_;
  static Config* run_;
  const TempFolder out_;
};
TempFolder* ExportTest::folder_ = nullptr;
Config* ExportTest::run_ = nullptr;

TEST_F(ExportTest, EveryArmsBundleScoresAsTheLiveModelDoes) {
  for (const char* arm : {"base", "generic_content", "saviorenc", "sid", "mba", "savior", "mba_off",
                          "shuffled_sid", "free_content"}) {
    SCOPED_TRACE(arm);
    Config config = SmallRun(folder_->path(), std::string("arm-") + arm);
    config.model.arm = arm;
    config.model.behaviour_features = std::string(arm) == "sid" || std::string(arm) == "savior";
    config.train.max_steps = 25;
    config.train.align_lr = 0.5;  // z~ moves away from z
    RunToTheEnd(config);
    ExpectServedAsLearned(config, out_ / arm);
  }
}

// Runs with rows for prefixes, of two and of three codes.
class PrefixExport : public ExportTest {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    MakeRaw(folder_->path());
    run_ = nullptr;
  }
  // One run of each arm, for all tests.
  static Config RunOf(const std::string& arm) {
    Config config = SmallRun(folder_->path(), "prefixes-" + arm);
    config.model.arm = arm;
    config.model.prefix_ngrams = true;
    config.codebook.levels = 3;
    config.train.max_steps = 25;
    config.train.align_lr = 0.5;
    config.commit.every_steps = 10;
    config.commit.keep = 100;
    if (!fs::exists(config.run.dir)) RunToTheEnd(config);
    return config;
  }
  static size_t RowsOfPrefixes(const fs::path& dir) {
    const BundleChain chain = *OpenChain(dir, *CurrentBundle(dir), true);
    const TableChain table = *chain.Table("prefix");
    size_t rows = 0;
    for (TableChain::Cursor cursor(&table); cursor.at(); cursor.Next()) ++rows;
    return rows;
  }
};

TEST_F(PrefixExport, ScoresAsTheLiveModelDoesInEveryArmWithCodes) {
  for (const char* arm : {"sid", "mba", "savior", "shuffled_sid", "free_content"}) {
    SCOPED_TRACE(arm);
    const Config config = RunOf(arm);
    ExpectServedAsLearned(config, out_ / arm);
    const size_t rows = RowsOfPrefixes(out_ / arm);
    EXPECT_EQ(rows, LearnedBy(config).tables.at("prefix").size());
    EXPECT_EQ(rows > 0, std::string(arm) != "free_content");
  }
}

TEST_F(PrefixExport, DeltasAmountToAFullExportByteForByte) {
  const Config config = RunOf("savior");
  const fs::path chain = out_ / "chain", full = out_ / "full", merged = out_ / "merged";
  const fs::path commits = fs::path(config.run.dir) / "commits";
  ASSERT_TRUE(ExportBundle({.from = CommitFolder(commits, 10), .out = chain, .golden = 8}).ok());
  const auto delta = ExportBundle({.from = config.run.dir, .out = chain, .since = 10, .golden = 8});
  ASSERT_TRUE(delta.ok()) << delta.status();
  const auto verified = VerifyBundle(chain, delta->version());
  EXPECT_TRUE(verified.ok()) << verified.status();
  ASSERT_TRUE(ExportBundle({.from = config.run.dir, .out = full, .golden = 8}).ok());
  const auto merge = MergeBundle(chain, delta->version(), merged);
  ASSERT_TRUE(merge.ok()) << merge.status();
  for (const BundleManifest::Table& table : merge->manifest.tables) {
    EXPECT_EQ(TableBytes(merged, 25, table.name), TableBytes(full, 25, table.name)) << table.name;
  }
  EXPECT_GT(RowsOfPrefixes(merged), 0u);
}

// What readers without our code go by.
TEST_F(PrefixExport, NamesBothTablesOfTheGraphsInput) {
  const Config config = RunOf("sid");
  const auto bundle = ExportBundle({.from = config.run.dir, .out = out_.path(), .golden = 2});
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  const auto schema = nlohmann::json::parse(*ReadFile(bundle->folder / kBundleSchema));
  std::vector<nlohmann::json> codes;
  for (const auto& input : schema.at("inputs")) {
    if (input.at("name") == "codes") codes.push_back(input);
  }
  ASSERT_EQ(codes.size(), 2u);
  EXPECT_EQ(codes[0].at("table"), "align");
  EXPECT_EQ(codes[0].at("width"), 3 * config.encoder.dim);
  EXPECT_EQ(codes[1].at("table"), "prefix");
  EXPECT_EQ(codes[1].at("keys"), "prefixes");
  EXPECT_EQ(codes[1].at("width"), 2 * config.encoder.dim);
}

TEST_F(ExportTest, TablesHaveExactlyTheRowsThatAreNotForgotten) {
  ASSERT_TRUE(ExportBundle({.from = run_->run.dir, .out = out_.path()}).ok());
  const Learned learned = LearnedBy(*run_);
  const BundleChain chain = *OpenChain(out_.path(), *CurrentBundle(out_.path()), true);
  for (const auto& [name, rows] : learned.tables) {
    if (name == "content") continue;
    const TableChain table = *chain.Table(name);
    const RowDecoder decoder = *RowDecoder::Of(
        table.columns(), "row", static_cast<uint32_t>(rows.begin()->second.weights.size()));
    auto row = rows.begin();
    for (TableChain::Cursor cursor(&table); cursor.at(); cursor.Next(), ++row) {
      ASSERT_NE(row, rows.end()) << name;
      EXPECT_EQ(cursor.at()->key(), row->first) << name;
      std::vector<float> weights(row->second.weights.size());
      decoder.Decode(*cursor.at(), weights);
      EXPECT_EQ(weights, row->second.weights) << name;
    }
    EXPECT_EQ(row, rows.end()) << name << ": rows are missing";
  }
}

TEST_F(ExportTest, DeltasAmountToAFullExportByteForByte) {
  const fs::path chain = out_ / "chain", full = out_ / "full", merged = out_ / "merged";
  ExportChain(chain);
  ASSERT_TRUE(ExportBundle({.from = CommitAt(60), .out = full, .golden = 8}).ok());
  const auto merge = MergeBundle(chain, BundleName(60), merged);
  ASSERT_TRUE(merge.ok()) << merge.status();
  for (const std::string& table : kFullTables) {
    EXPECT_EQ(TableBytes(merged, 60, table), TableBytes(full, 60, table)) << table;
  }
  // They had something to say, and to take back.
  uint64_t gone = 0;
  const Bundle last = *OpenBundle(chain / BundleName(60), false);
  for (const BundleManifest::Table& t : last.manifest.tables) gone += t.gone;
  EXPECT_GT(gone, 0u);
  EXPECT_LT(TableBytes(chain, 60, "items").size(), TableBytes(full, 60, "items").size());
  for (const fs::path& dir : {chain, merged}) {
    const auto verified = VerifyBundle(dir, BundleName(60));
    ASSERT_TRUE(verified.ok()) << verified.status();
    EXPECT_LE(verified->parity.max_difference, 1e-5);
    EXPECT_GT(verified->rows_compared, 100);
  }
  EXPECT_TRUE(absl::IsFailedPrecondition(MergeBundle(full, BundleName(60), merged).status()));
}

TEST_F(ExportTest, DeltasOutOfOrderAreRefusedByName) {
  ExportChain(out_.path());
  const auto bundle = [this](int64_t step) { return *OpenBundle(out_ / BundleName(step), false); };
  const Bundle full = bundle(20), first = bundle(40), second = bundle(60);
  EXPECT_TRUE(CheckNext(full, first).ok());
  EXPECT_TRUE(CheckNext(first, second).ok());
  const auto refused = [](const Bundle& have, const Bundle& next, const std::string& what) {
    const absl::Status status = CheckNext(have, next);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr(what));
    EXPECT_THAT(status.message(), HasSubstr(next.folder.string()));
  };
  refused(full, second, "gap");
  refused(first, first, "duplicate");
  refused(second, first, "too old");
  refused(first, full, "full bundle");
  Bundle other = full;
  other.digest = std::string(32, '0');
  refused(other, first, "wrong base");

  // The base of a chain that is not there any more is named.
  fs::remove_all(out_ / BundleName(40));
  const auto broken = OpenChain(out_.path(), BundleName(60), false);
  EXPECT_TRUE(absl::IsNotFound(broken.status())) << broken.status();
  EXPECT_THAT(broken.status().message(), HasSubstr(BundleName(40)));
  // Another bundle in its place is not what the delta was made for.
  ASSERT_TRUE(ExportBundle({.from = CommitAt(40), .out = out_.path(), .golden = 3}).ok());
  const auto wrong = OpenChain(out_.path(), BundleName(60), false);
  EXPECT_TRUE(absl::IsFailedPrecondition(wrong.status())) << wrong.status();
}

TEST_F(ExportTest, WhatCannotBeExportedIsSaid) {
  ExportChain(out_.path());
  const auto expect = [](const absl::StatusOr<Bundle>& bundle, absl::StatusCode code,
                         const std::string& what) {
    EXPECT_EQ(bundle.status().code(), code) << bundle.status();
    EXPECT_THAT(bundle.status().message(), HasSubstr(what));
  };
  expect(ExportBundle({.from = CommitAt(60), .out = out_.path()}),
         absl::StatusCode::kFailedPrecondition, "there already");
  expect(ExportBundle({.from = CommitAt(40), .out = out_.path(), .since = 60}),
         absl::StatusCode::kFailedPrecondition, "nothing since");
  expect(ExportBundle({.from = run_->run.dir, .out = out_.path(), .since = 1}),
         absl::StatusCode::kNotFound, BundleName(1));
  expect(ExportBundle({.from = run_->run.dir, .out = out_.path(), .since = 60, .hps = true}),
         absl::StatusCode::kInvalidArgument, "full bundle");
  expect(ExportBundle({.from = out_ / "nothing", .out = out_.path()}), absl::StatusCode::kNotFound,
         "nothing");
  EXPECT_EQ(*CurrentBundle(out_.path()), BundleName(60));
}

TEST_F(ExportTest, HalfAndInt8StayWithinTheirTolerance) {
  for (const Precision precision : {Precision::kFloat16, Precision::kInt8}) {
    const fs::path out = out_ / NameOf(precision);
    ASSERT_TRUE(ExportBundle({.from = run_->run.dir, .out = out, .precision = precision}).ok());
    const auto verified = VerifyBundle(out, *CurrentBundle(out));
    ASSERT_TRUE(verified.ok()) << verified.status();
    EXPECT_GT(verified->parity.max_difference, 0);
    EXPECT_GT(verified->rows_compared, 100);
    const BundleChain chain = *OpenChain(out, *CurrentBundle(out), false);
    EXPECT_EQ(chain.newest().manifest.precision, precision);
  }
  const auto content_bytes = [this](const char* precision) {
    return fs::file_size(out_ / precision / *CurrentBundle(out_ / precision) /
                         TableFileName("aligned"));
  };
  EXPECT_LT(content_bytes("int8"), content_bytes("float16"));
}

// A reload reads what it has not read before.
TEST_F(ExportTest, WhatIsVerifiedIsReadOnce) {
  const fs::path dir = out_ / "chain";
  ExportChain(dir);
  DigestCache known(DigestCache::Links::kNone);
  const auto read_by_opening = [&](int64_t step) {
    const uint64_t before = known.bytes_read();
    const auto chain = OpenChain(dir, BundleName(step), /*digests=*/true, &known);
    EXPECT_TRUE(chain.ok()) << chain.status();
    return known.bytes_read() - before;
  };
  const auto bytes_of = [&](int64_t step) {
    uint64_t bytes = 0;
    const Bundle bundle = *OpenBundle(dir / BundleName(step), false);
    for (const SealedFile& file : bundle.manifest.files) bytes += file.bytes;
    return bytes;
  };
  const auto chain = OpenChain(dir, BundleName(60), /*digests=*/false);
  ASSERT_GE(chain->bundles.size(), 2u);
  const Bundle& base = chain->bundles[chain->bundles.size() - 2];
  EXPECT_GT(read_by_opening(base.manifest.step), bytes_of(60));
  EXPECT_EQ(read_by_opening(60), bytes_of(60));
  EXPECT_EQ(read_by_opening(60), 0u);

  // The same size, the same place, another byte: it is read again.
  const fs::path file = chain->bundles[0].TablePath("item");
  std::string bytes = *ReadFile(file);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  const auto written = fs::last_write_time(file);
  std::ofstream(file, std::ios::binary | std::ios::in) << bytes;
  fs::last_write_time(file, written);  // not even the time of the write tells
  const auto damaged = OpenChain(dir, BundleName(60), /*digests=*/true, &known);
  EXPECT_TRUE(absl::IsDataLoss(damaged.status())) << damaged.status();
}

// What an export proves by itself: a base that rotted meanwhile is found by who loads the chain.
TEST_F(ExportTest, AnExportProvesItsOwnBytes) {
  const fs::path dir = out_ / "chain";
  ExportChain(dir);
  const auto flip = [](const fs::path& file) {
    std::string bytes = *ReadFile(file);
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
    std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
  };
  flip(dir / BundleName(20) / kBundleOnnx);
  EXPECT_TRUE(VerifyBundle(dir, BundleName(60), Digests::kNewest).ok());
  EXPECT_TRUE(absl::IsDataLoss(VerifyBundle(dir, BundleName(60)).status()));
  flip(dir / BundleName(60) / kBundleOnnx);
  EXPECT_TRUE(absl::IsDataLoss(VerifyBundle(dir, BundleName(60), Digests::kNewest).status()));
}

// A byte anywhere, a file away: named, and nothing is served.
TEST_F(ExportTest, DamageIsFoundAndNamed) {
  const fs::path dir = out_ / "whole";
  ASSERT_TRUE(
      ExportBundle({.from = run_->run.dir, .out = dir, .hps = true, .triton = true, .golden = 4})
          .ok());
  const std::string name = *CurrentBundle(dir);
  const fs::path folder = dir / name;
  const auto expect_named = [&](const fs::path& file) {
    const auto verified = VerifyBundle(dir, name);
    EXPECT_TRUE(absl::IsDataLoss(verified.status())) << file << ": " << verified.status();
    EXPECT_THAT(verified.status().message(), HasSubstr(file.filename().string()));
    EXPECT_FALSE(LoadScorer(dir, name, /*digests=*/true).ok());
  };
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  EXPECT_GT(files.size(), 25u);
  Random random(3, 0);
  const auto write = [](const fs::path& file, const std::string& bytes) {
    std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
  };
  for (const fs::path& file : files) {
    // The ONNX file has two names.
    const bool linked = fs::hard_link_count(file) > 1;
    const std::string whole = *ReadFile(file);
    const std::string manifest = file.filename() == kManifestFile ? whole : std::string();
    const size_t flips = manifest.empty() ? 3 : 200;
    for (size_t i = 0; i < flips; ++i) {
      std::string bytes = whole;
      bytes[random.Below(bytes.size())] ^= static_cast<char>(1u << random.Below(8));
      write(file, bytes);
      if (linked) {
        EXPECT_TRUE(absl::IsDataLoss(VerifyBundle(dir, name).status()));
      } else {
        expect_named(file);
      }
      write(file, whole);
    }
    fs::rename(file, out_ / "away");
    expect_named(file);
    fs::rename(out_ / "away", file);
  }
  EXPECT_TRUE(VerifyBundle(dir, name).ok());
}

TEST_F(ExportTest, AnotherVersionIsSaidToBeOne) {
  ASSERT_TRUE(ExportBundle({.from = run_->run.dir, .out = out_.path(), .golden = 2}).ok());
  const fs::path folder = out_ / *CurrentBundle(out_.path());
  SealedManifest sealed =
      *UnsealManifest(folder / kManifestFile, *ReadFile(folder / kManifestFile));
  sealed.fields["version"] = 2;
  const std::string text = SealManifest(sealed.fields, sealed.files);
  ASSERT_TRUE(WriteFileAtomically(folder / kManifestFile, text).ok());
  const std::string digest = UnsealManifest(folder / kManifestFile, text)->xxh3;
  ASSERT_TRUE(WriteFileAtomically(folder / kBundleReady, digest + "\n").ok());
  const auto bundle = OpenBundle(folder, false);
  EXPECT_TRUE(absl::IsDataLoss(bundle.status())) << bundle.status();
  EXPECT_THAT(bundle.status().message(), HasSubstr("version 2"));
}

TEST_F(ExportTest, AFullDiskLeavesWhatWasThere) {
  SmallDisk disk(24);
  SAVIOR_NEEDS(disk);
  const fs::path dir = disk / "bundles";
  ASSERT_TRUE(ExportBundle({.from = CommitAt(20), .out = dir, .golden = 2}).ok());
  disk.Fill(64 << 10);
  const auto failed = ExportBundle({.from = CommitAt(40), .out = dir, .golden = 2});
  EXPECT_TRUE(absl::IsResourceExhausted(failed.status())) << failed.status();
  EXPECT_EQ(*CurrentBundle(dir), BundleName(20));
  EXPECT_TRUE(VerifyBundle(dir, BundleName(20)).ok());
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) names.insert(entry.path().filename());
  EXPECT_EQ(names, (std::set<std::string>{BundleName(20), "current", "lock"}));
  disk.Free();
  EXPECT_TRUE(ExportBundle({.from = CommitAt(40), .out = dir, .golden = 2}).ok());
}

// An item without an id, by its vectors: the content that the catalogue's item has, bit for bit.
TEST_F(ExportTest, ColdItemsAreRankedByTheirVectors) {
  ASSERT_TRUE(ExportBundle({.from = run_->run.dir, .out = out_.path(), .golden = 2}).ok());
  const BundleChain chain = *OpenChain(out_.path(), *CurrentBundle(out_.path()), true);
  const auto model = BundleModel::Load(chain, out_.path());
  ASSERT_TRUE(model.ok()) << model.status();
  const RunInputs inputs = *RunInputs::Open(*run_);
  const TrainingLog& log = *inputs.log;
  const auto dim = static_cast<size_t>(run_->encoder.dim);
  const std::vector<uint64_t> keys = ContentKeys(log);
  for (int32_t content = 0; content < 50; ++content) {
    const ColdContent cold = (*model)->Encode(EncoderInputs(log, std::span(&content, 1)));
    std::vector<float> z(dim), aligned(dim);
    (*model)->Content(keys[static_cast<size_t>(content)], z, aligned);
    EXPECT_EQ(cold.z, z);
    EXPECT_EQ(cold.codes, *(*model)->Codes(keys[static_cast<size_t>(content)]));
    EXPECT_NE(cold.aligned, cold.z) << "its codes are aligned, too";
  }
  const auto scorer = ScorerOf(chain);
  ASSERT_TRUE(scorer.ok()) << scorer.status();
  const ModelCard& card = (*scorer)->card();
  RankRequest request{.user = 1, .timestamp = log.days().back().start};
  request.candidates.resize(2);
  auto& vector = request.candidates[0].vectors[card.modalities[0].name];
  vector.assign(static_cast<size_t>(card.modalities[0].dim), 0.5f);
  const auto scores = (*scorer)->Rank(request);
  ASSERT_TRUE(scores.ok()) << scores.status();
  EXPECT_NE(scores->p_ctr[0], scores->p_ctr[1]) << "the vector matters";
  vector.pop_back();
  EXPECT_THAT((*scorer)->Rank(request).status().message(), HasSubstr("candidates[0].vectors."));
}

TEST_F(ExportTest, RequestsThatTheModelCannotTakeAreRefused) {
  ASSERT_TRUE(ExportBundle({.from = run_->run.dir, .out = out_.path(), .golden = 2}).ok());
  const auto scorer = *LoadScorer(out_.path(), *CurrentBundle(out_.path()), true);
  const auto refused = [&](const RankRequest& request, const std::string& what) {
    const auto scores = scorer->Rank(request);
    EXPECT_TRUE(absl::IsInvalidArgument(scores.status())) << scores.status();
    EXPECT_THAT(scores.status().message(), HasSubstr(what));
  };
  RankRequest request{.timestamp = 1'700'000'000};
  refused(request, "candidates: none");
  request.candidates.resize(1);
  EXPECT_TRUE(scorer->Rank(request).ok()) << "a new user without history, an item of which nothing "
                                             "is known";
  request.features["ctx_nothing"] = "x";
  refused(request, "ctx_nothing");
  request.features.clear();
  request.candidates[0].features["feat_nothing"] = "x";
  refused(request, "candidates[0].features");
  request.candidates[0] = {};
  request.candidates[0].vectors["smell"] = {1, 2};
  refused(request, "smell");
  request.candidates[0] = {};
  request.candidates[0].vectors[scorer->card().modalities[0].name] =
      std::vector<float>(static_cast<size_t>(scorer->card().modalities[0].dim), std::nanf(""));
  refused(request, "must be finite");
}

}  // namespace
}  // namespace savior
