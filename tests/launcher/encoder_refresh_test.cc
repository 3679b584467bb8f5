// A refresh that renews the encoder with the codebook: what comes of it, and what comes back.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "launcher/bundle_export.h"
#include "launcher/refresh_command.h"
#include "launcher/run_inputs.h"
#include "launcher/run_refresh.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/refresh_run.h"
#include "worker/model/codebook.h"
#include "worker/model/encoder.h"
#include "worker/refresh/drift_monitor.h"
#include "worker/step_inputs.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class EncoderRefresh : public RefreshSuite<EncoderRefresh> {
 public:
  static Config Named(const std::string& name) {
    Config config = DriftingRun(folder_->path(), name);
    config.encoder.refreshable = true;
    config.refresh.encoder_steps = 20;
    config.refresh.encoder_lr = 1e-3;
    return config;
  }

 protected:
  static fs::path NewestFolder(const Config& config) {
    return NewestCommit(fs::path(config.run.dir) / "commits")->folder;
  }
  // The file's digest; "": there is none.
  static std::string EncoderIn(const Config& config, const char* file = kEncoderFile) {
    const fs::path path = NewestFolder(config) / file;
    return fs::exists(path) ? *DigestFile(path) : "";
  }
  // z of slot `slot` of every content in the newest commit is that of the encoder in `file`.
  static void ExpectEncodedBy(const char* file, uint32_t slot, const Config& config) {
    SCOPED_TRACE(file);
    const auto log = OpenOrPrepare(config);
    ASSERT_TRUE(log.ok());
    const auto encoder = LoadEncoder(*ReadTensorFile(NewestFolder(config) / file));
    ASSERT_TRUE(encoder.ok());
    const std::vector<float> z = EncodeAll(**log, **encoder);
    const std::vector<uint64_t> keys = ContentKeys(**log);
    const Learned learned = LearnedBy(config);
    const auto& rows = learned.tables.at("content");
    const ContentLayout layout = ContentLayout::Of(config);
    for (size_t c = 0; c < keys.size(); ++c) {
      const std::span<const float> row = rows.at(keys[c]).weights;
      ASSERT_TRUE(std::ranges::equal(row.subspan(layout.z(slot), layout.dim),
                                     std::span(z).subspan(c * layout.dim, layout.dim)))
          << keys[c];
    }
  }
};

TEST_F(EncoderRefresh, GivesAllContentsTheirNewVector) {
  EXPECT_THAT(StatesOf(Once()), ElementsAre("BUILDING", "ACTIVE"));
  const CodebookState state = StateOf(Once());
  EXPECT_EQ(state.version, 1u);
  EXPECT_EQ(state.encoder, 1u);
  EXPECT_EQ(state.previous_encoder, 0u);
  ExpectEncodedBy(kEncoderFile, 1, Once());
  ExpectEncodedBy(kPreviousEncoderFile, 0, Once());
  EXPECT_EQ(EncoderIn(Once(), kPreviousEncoderFile), EncoderIn(Never()));
  EXPECT_NE(EncoderIn(Once()), EncoderIn(Never()));
  const double moved = EventsOf(Once())[1].at("z_moved");
  EXPECT_GT(moved, 1e-6);
  EXPECT_LT(moved, 0.5);
}

TEST_F(EncoderRefresh, RoomForItChangesNothingThatIsLearned) {
  Config plain = Named("without-room");
  plain.encoder.refreshable = false;
  RunToTheEnd(plain);
  EXPECT_EQ(ResultOf(plain), ResultOf(Never()));
  EXPECT_EQ(InUse(plain), InUse(Never()));
  EXPECT_EQ(StateOf(Never()).encoder, 0u);
}

TEST_F(EncoderRefresh, OfARunStoppedAtAnyStepIsBitIdentical) {
  for (const int64_t stop : {kRefreshBegin - 1, kRefreshSwitch, kRefreshSwitch + 9}) {
    SCOPED_TRACE(stop);
    const Config config = StoppedAndResumed(stop);
    ExpectSame(Once(), config);
    EXPECT_EQ(EncoderIn(config), EncoderIn(Once()));
    EXPECT_EQ(EncoderIn(config, kPreviousEncoderFile), EncoderIn(Never()));
  }
}

TEST_F(EncoderRefresh, RolledBackItIsTheRunThatNeverSwitched) {
  Config config = WithRefresh(Named("rolled-back"));
  RunToTheEnd(config);
  ASSERT_TRUE(RollBackCodebook(config.run.dir, 0, Anyhow).ok());
  EXPECT_EQ(StateOf(config).encoder, 0u);
  // A bundle of it as it lies there: the former encoder is still under its other name.
  const auto bundle = ExportBundle({.from = config.run.dir, .out = folder_->path() / "back"});
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  EXPECT_EQ(*DigestFile(bundle->folder / kEncoderFile), EncoderIn(Never()));
  config.refresh.at_step = 0;
  RunToTheEnd(config, /*resume=*/true);
  EXPECT_EQ(ResultOf(config), ResultOf(Never()));
  EXPECT_EQ(InUse(config), InUse(Never()));
  EXPECT_EQ(EncoderIn(config), EncoderIn(Never()));
  EXPECT_EQ(EncoderIn(config, kPreviousEncoderFile), "");
  EXPECT_EQ(StateOf(config).previous_encoder, 0u);
}

TEST_F(EncoderRefresh, VersionsOfEncoderAndCodebookAreTheirOwn) {
  Config config = Named("standing");
  config.train.max_steps = kRefreshSwitch;
  RunToTheEnd(config);
  std::ostringstream out;
  const auto refresh = [&](int64_t encoder_steps, int64_t probation_steps) {
    const absl::Status done =
        RefreshCodebook({config.run.dir,
                         {"refresh.encoder_steps=" + std::to_string(encoder_steps),
                          "refresh.probation_steps=" + std::to_string(probation_steps)},
                         false,
                         false},
                        out);
    ASSERT_TRUE(done.ok()) << done;
  };
  const std::string first = EncoderIn(config);
  refresh(0, 0);
  EXPECT_EQ(StateOf(config).version, 1u);
  EXPECT_EQ(StateOf(config).encoder, 0u);
  EXPECT_EQ(EncoderIn(config), first);
  ExpectEncodedBy(kEncoderFile, 1, config);
  refresh(20, 0);
  EXPECT_EQ(StateOf(config).version, 2u);
  EXPECT_EQ(StateOf(config).encoder, 1u);
  EXPECT_NE(EncoderIn(config), first);
  EXPECT_EQ(EncoderIn(config, kPreviousEncoderFile), "") << "there is no way back";
  ExpectEncodedBy(kEncoderFile, 2, config);
  // The next one keeps it, although it is on probation: it is not what would come back.
  refresh(0, 10'000);
  EXPECT_EQ(StateOf(config).encoder, 1u);
  EXPECT_EQ(StateOf(config).previous_encoder, 1u);
  EXPECT_EQ(EncoderIn(config, kPreviousEncoderFile), "");
  ASSERT_TRUE(RollBackCodebook(config.run.dir, 2, Anyhow).ok());
  EXPECT_EQ(StateOf(config).encoder, 1u);
}

TEST_F(EncoderRefresh, BundlesHaveTheEncoderAndTheVectorsInUse) {
  const fs::path out = folder_->path() / "bundles";
  const auto bundle = ExportBundle({.from = Once().run.dir, .out = out});
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  EXPECT_EQ(*DigestFile(bundle->folder / kEncoderFile), EncoderIn(Once()));
  const auto verified = VerifyBundle(out, bundle->version(), Digests::kAll);
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_LT(verified->parity.max_difference, 1e-5);
  EXPECT_GT(verified->rows_compared, 100);
  const Learned learned = InUse(Once());
  const TableChain table = *OpenChain(out, bundle->version(), /*digests=*/false)->Table("content");
  const size_t bytes = table.columns()[0].bytes();
  TableChain::Cursor at(&table);
  for (const auto& [key, row] : learned.tables.at("content")) {
    ASSERT_TRUE(at.at() && at.at()->key() == key) << key;
    EXPECT_EQ(std::memcmp(at.at()->file->Value(0, at.at()->row).data(), row.weights.data(), bytes),
              0);
    at.Next();
  }
  EXPECT_FALSE(at.at());
}

// What drifts from then on is the new vectors' distance to what the new codes stand for.
TEST_F(EncoderRefresh, DriftIsMeasuredOnTheVectorsInUse) {
  const Config config = Once();
  const auto log = OpenOrPrepare(config);
  ASSERT_TRUE(log.ok());
  const auto codebook = LoadCodebook(*ReadTensorFile(NewestFolder(config) / kCodebookFile));
  ASSERT_TRUE(codebook.ok());
  const auto inspected = InspectedCommit::Open(config.run.dir);
  ASSERT_TRUE(inspected.ok());
  constexpr int64_t kAll = std::numeric_limits<int64_t>::max();
  DriftMonitor monitor(log->get(), config, **codebook, /*version=*/1, /*built_until=*/kAll);
  ASSERT_TRUE(monitor.Advance(kAll, (*inspected)->store()).ok());
  double error = 0;
  const Learned learned = InUse(config);
  const auto& rows = learned.tables.at("content");
  const auto dim = static_cast<size_t>(config.encoder.dim);
  for (const auto& [key, row] : rows) {
    const std::vector<int32_t> codes(row.weights.begin() + config.encoder.dim, row.weights.end());
    const std::vector<float> decoded = (*codebook)->Decode(codes);
    for (size_t d = 0; d < dim; ++d) {
      const double difference = static_cast<double>(row.weights[d]) - decoded[d];
      error += difference * difference;
    }
  }
  EXPECT_EQ(monitor.Figures().old_contents, std::ssize(rows));
  EXPECT_NEAR(monitor.Figures().old_rq_mse, error / static_cast<double>(rows.size()), 1e-9);
}

TEST_F(EncoderRefresh, PlainPcaHasNothingToRefresh) {
  Config config = Named("pca");
  config.encoder.kind = "pca";
  const fs::path file = folder_->path() / "pca.toml";
  ASSERT_TRUE(WriteFile(file, ToToml(config)).ok());
  EXPECT_THAT(std::string(LoadConfig(file.string(), {}).status().message()),
              HasSubstr("encoder.refreshable = true"));
}

}  // namespace
}  // namespace savior
