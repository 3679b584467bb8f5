// Between two steps all workers go over to the next codebook version, whose codes and alignment
// rows lie beside those of the one before.
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <barrier>
#include <functional>
#include <map>
#include <thread>

#include "tests/worker/trainer/clocked_store.h"
#include "tests/worker/trainer/small_world.h"
#include "tests/worker/trainer/thread_allreduce.h"
#include "worker/trainer.h"

namespace savior {
namespace {

constexpr int64_t kSteps = 8;
constexpr int64_t kSwitch = 3;

using Rows = std::map<std::pair<uint32_t, uint64_t>, std::vector<float>>;

struct Trained {
  std::vector<uint64_t> digests;  // of dense weights, by worker
  Rows rows;
  size_t unfinished = 0;
};

class CodebookSwitch : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    at::set_num_threads(1);
    folder_ = new TempFolder;
    log_ = MakeSmallLog(*folder_).release();
  }
  static void TearDownTestSuite() {
    delete log_;
    delete folder_;
  }

  static Config ShortRun(const std::string& arm = "savior", int64_t staleness = 0) {
    Config config = SmallModel(arm);
    config.train.max_steps = kSteps;
    config.cluster.staleness = staleness;
    config.ps.timeout_s = config.cluster.allreduce_timeout_s = 20;
    return config;
  }

  // W workers as threads over one store. Before step kSwitch `prepare` is called once, while all
  // have settled, and then `go_over` by each.
  static Trained Train(const Config& config, uint32_t workers,
                       const std::function<void(ClockedStore&)>& prepare,
                       const std::function<absl::Status(Trainer&)>& go_over) {
    Trained run;
    run.digests.resize(workers);
    ClockedStore store(config, workers);
    const auto sum = std::make_shared<ThreadSum>(workers);
    std::barrier<> barrier(workers);
    const auto work = [&](uint32_t w) {
      ThreadAllreduce allreduce(sum, w);
      auto trainer = Trainer::Create(config, log_, &store.port(w), kWholeLog, &allreduce);
      ASSERT_TRUE(trainer.ok()) << trainer.status();
      while ((*trainer)->step() < (*trainer)->total_steps()) {
        if ((*trainer)->step() == kSwitch) {
          ASSERT_TRUE((*trainer)->Settle().ok());
          barrier.arrive_and_wait();
          if (w == 0) prepare(store);
          barrier.arrive_and_wait();
          const absl::Status over = go_over(**trainer);
          ASSERT_TRUE(over.ok()) << over;
          barrier.arrive_and_wait();
        }
        const auto figures = (*trainer)->Step();
        ASSERT_TRUE(figures.ok()) << figures.status();
      }
      run.digests[w] = (*trainer)->Digest();
    };
    std::vector<std::thread> threads;
    for (uint32_t w = 0; w < workers; ++w) threads.emplace_back(work, w);
    for (std::thread& thread : threads) thread.join();
    run.rows = store.learned();
    run.unfinished = store.unfinished();
    return run;
  }

  static Trained TrainUndisturbed(const Config& config, uint32_t workers) {
    return Train(
        config, workers, [](ClockedStore&) {}, [](Trainer&) { return absl::OkStatus(); });
  }

  static size_t RowsOfSlot(const Rows& rows, uint64_t slot) {
    size_t n = 0;
    for (const auto& [key, row] : rows) {
      n += key.first == kAlignTable && SlotOfAlignKey(key.second) == slot;
    }
    return n;
  }

  static TempFolder* folder_;
  static TrainingLog* log_;
};
TempFolder* CodebookSwitch::folder_ = nullptr;
TrainingLog* CodebookSwitch::log_ = nullptr;

// The same codes and the same rows under the next version's keys: all is learned there, the old
// ones stay as they were.
TEST_F(CodebookSwitch, ToEqualCodesAndRowsChangesNoBit) {
  struct Case {
    const char* arm;
    int64_t staleness;
    uint32_t workers;
    bool prefixes = false;
  };
  for (const auto& [arm, staleness, workers, prefixes] :
       {Case{"savior", 0, 1}, Case{"savior", 0, 2}, Case{"sid", 0, 2}, Case{"savior", 1, 1},
        Case{"savior", -1, 1}, Case{"savior", 0, 2, true}, Case{"sid", 0, 1, true}}) {
    SCOPED_TRACE(testing::Message() << arm << ", staleness " << staleness << ", " << workers);
    Config config = ShortRun(arm, staleness);
    config.model.prefix_ngrams = prefixes;
    const Trained plain = TrainUndisturbed(config, workers);
    Rows before;
    const Trained over = Train(
        config, workers,
        [&](ClockedStore& store) {
          before = store.learned();
          store.CopyAlignment(0, 1);
        },
        [](Trainer& trainer) { return trainer.UseCodebook(1, 1); });
    EXPECT_EQ(over.digests, plain.digests);
    EXPECT_EQ(over.unfinished, 0u);
    ASSERT_GT(RowsOfSlot(plain.rows, 0), 0u);
    EXPECT_EQ(RowsOfSlot(plain.rows, 1), 0u);
    EXPECT_EQ(RowsOfSlot(over.rows, 1), RowsOfSlot(plain.rows, 0));
    size_t changed = 0, of_prefixes = 0;
    for (const auto& [key, row] : plain.rows) {
      const auto [table, number] = key;
      if (table != kAlignTable && table != kPrefixTable) {
        EXPECT_EQ(over.rows.at(key), row) << table << ", " << number;
        continue;
      }
      of_prefixes += table == kPrefixTable;
      const uint64_t next = table == kAlignTable ? AlignKey(1, 0, 0) : PrefixKey(1, 1, 0);
      EXPECT_EQ(over.rows.at({table, next | number}), row) << number;
      if (!before.contains(key)) continue;
      EXPECT_EQ(over.rows.at(key), before.at(key)) << "a row of version 0 was touched";
      changed += row != before.at(key);
    }
    EXPECT_GT(changed, 0u) << "nothing was learned after the switch";
    EXPECT_EQ(of_prefixes > 0, prefixes);
  }
}

// Every content's row with other codes in slot 1.
void PutCodesBeside(const Config& config, const TrainingLog& log, EmbeddingStore& store) {
  const std::vector<uint64_t> keys = ContentKeys(log);
  const size_t dim = store.tables()[kContentTable].dim;
  const ContentLayout layout = ContentLayout::Of(config);
  std::vector<float> rows(keys.size() * dim);
  const TablePull pull = {kContentTable, keys, rows};
  ASSERT_TRUE(store.Pull({&pull, 1}, Deadline::max()).ok());
  for (size_t i = 0; i < keys.size(); ++i) {
    float* codes = rows.data() + i * dim + layout.codes(1);
    for (size_t l = 0; l < layout.levels; ++l)
      codes[l] = static_cast<float>(config.codebook.codes - 1);
  }
  const TablePut put = {kContentTable, keys, rows};
  ASSERT_TRUE(store.Put({&put, 1}, Deadline::max()).ok());
}

TEST_F(CodebookSwitch, CodesThatArePutBesideChangeNoBitBeforeIt) {
  const Config config = ShortRun();
  const Trained plain = TrainUndisturbed(config, 2);
  const Trained beside = Train(
      config, 2, [&](ClockedStore& store) { PutCodesBeside(config, *log_, store.port(0)); },
      [](Trainer& trainer) {
        trainer.ForgetContents();
        return absl::OkStatus();
      });
  EXPECT_EQ(beside.digests, plain.digests);
  for (const auto& [key, row] : plain.rows) EXPECT_EQ(beside.rows.at(key), row);
}

TEST_F(CodebookSwitch, CodesAreThoseOfTheVersionInUse) {
  const Config config = ShortRun();
  ClockedStore store(config, 1);
  EmbeddingStore& port = store.port(0);
  StepAssembler assembler(log_, config);
  const auto reader = BatchReader::Create(
      log_, {.period = kWholeLog, .requests_per_batch = config.train.requests_per_batch});
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto keys = [&]() -> std::vector<uint64_t> {
    auto batch = (*reader)->Read(1);
    EXPECT_TRUE(batch.ok()) << batch.status();
    const auto in = assembler.Assemble(*std::move(batch), port, Deadline::max());
    EXPECT_TRUE(in.ok()) << in.status();
    return in->align.keys;
  };
  const std::vector<uint64_t> first = keys();
  ASSERT_GT(first.size(), 4u);
  EXPECT_EQ(assembler.codebook_version(), 0u);
  PutCodesBeside(config, *log_, port);
  EXPECT_EQ(keys(), first);
  assembler.ForgetContents();
  EXPECT_EQ(keys(), first);
  assembler.UseCodebook(1, 0);
  EXPECT_EQ(assembler.codebook_version(), 1u);
  EXPECT_THAT(keys(), testing::UnorderedElementsAre(AlignKey(1, 0, 7), AlignKey(1, 1, 7)));
  assembler.UseCodebook(2, 0);
  EXPECT_EQ(keys(), first);
}

// Rows as they were before there were slots: z, then codes, padded.
TEST_F(CodebookSwitch, RowsOfOneVersionReadAsVersionZero) {
  Config config = ShortRun();
  config.codebook.levels = 1;
  ClockedStore store(config, 1);
  EmbeddingStore& port = store.port(0);
  const std::vector<uint64_t> contents = ContentKeys(*log_);
  ASSERT_EQ(port.tables()[kContentTable].dim, 16u);
  std::vector<float> rows;
  for (size_t i = 0; i < contents.size(); ++i) {
    for (int d = 0; d < 12; ++d) rows.push_back(0.5f);
    for (const float code : {3.0f, 4.0f, 5.0f, 0.0f}) rows.push_back(code);
  }
  const TablePut put = {kContentTable, contents, rows};
  ASSERT_TRUE(port.Put({&put, 1}, Deadline::max()).ok());
  config.codebook.levels = 3;
  StepAssembler assembler(log_, config);
  const auto reader = BatchReader::Create(log_, {.period = kWholeLog, .requests_per_batch = 8});
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto in = assembler.Assemble(*(*reader)->Read(0), port, Deadline::max());
  ASSERT_TRUE(in.ok()) << in.status();
  EXPECT_THAT(in->align.keys,
              testing::ElementsAre(AlignKey(0, 0, 3), AlignKey(0, 1, 4), AlignKey(0, 2, 5)));
  EXPECT_THAT(in->z, testing::Each(0.5f));
  assembler.UseCodebook(1, 0);
  const absl::Status status =
      assembler.Assemble(*(*reader)->Read(0), port, Deadline::max()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("16 floats"));
}

// For who makes rows of them while this goes on: which ones gradients came for.
TEST_F(CodebookSwitch, NotesPrefixesThatArePushed) {
  Config config = ShortRun();
  config.model.prefix_ngrams = true;
  ClockedStore store(config, 1);
  auto trainer = Trainer::Create(config, log_, &store.port(0), kWholeLog);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  const auto prefixes = [&] {
    std::map<uint64_t, std::vector<float>> rows;
    for (const auto& [key, row] : store.learned()) {
      if (key.first == kPrefixTable) rows[key.second] = row;
    }
    return rows;
  };
  ASSERT_TRUE((*trainer)->Step().ok());
  EXPECT_TRUE((*trainer)->PrefixesPushedSince(0).empty()) << "nobody has asked";
  (*trainer)->NotePrefixes(true);
  auto before = prefixes();
  ASSERT_TRUE((*trainer)->Step().ok());
  const auto between = prefixes();
  ASSERT_TRUE((*trainer)->Step().ok());
  for (const int64_t since : {1, 2}) {
    std::vector<uint64_t> changed;
    for (const auto& [key, row] : prefixes()) {
      if (!before.contains(key) || before.at(key) != row) changed.push_back(key);
    }
    ASSERT_FALSE(changed.empty());
    // A gradient may leave a row as it is, in which case it is named for nothing.
    EXPECT_THAT((*trainer)->PrefixesPushedSince(since), testing::IsSupersetOf(changed));
    before = between;
  }
  EXPECT_GT((*trainer)->PrefixesPushedSince(1).size(), (*trainer)->PrefixesPushedSince(2).size());
  EXPECT_TRUE((*trainer)->PrefixesPushedSince(3).empty());
  (*trainer)->NotePrefixes(false);
  EXPECT_TRUE((*trainer)->PrefixesPushedSince(0).empty());
}

// As with Seek, pulls that are under way are finished and their steps pulled again.
TEST_F(CodebookSwitch, ForgetsWhatIsUnderWay) {
  for (const int64_t staleness : {0, 3}) {
    const Config config = ShortRun("savior", staleness);
    ClockedStore store(config, 1);
    auto trainer = Trainer::Create(config, log_, &store.port(0), kWholeLog);
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    EXPECT_EQ((*trainer)->codebook_version(), 0u);
    ASSERT_TRUE((*trainer)->Step().ok());
    ASSERT_GT(store.unfinished(), 0u);
    ASSERT_TRUE((*trainer)->UseCodebook(1, 0).ok());
    EXPECT_EQ(store.unfinished(), 0u);
    EXPECT_EQ((*trainer)->codebook_version(), 1u);
    EXPECT_EQ((*trainer)->step(), 1);
    ASSERT_TRUE((*trainer)->Step().ok());
    EXPECT_GT(RowsOfSlot(store.learned(), 1), 0u);
  }
}

}  // namespace
}  // namespace savior
