#include "serving/aligner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

#include "common/random.h"
#include "tests/common/temp_folder.h"
#include "worker/tables.h"

namespace savior {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr uint32_t kDim = 2;
constexpr size_t kHidden = 3;
constexpr uint64_t kContent = 77;  // has a vector of its own
constexpr uint32_t kUpdates = 5;   // of it
constexpr double kShrinkage = 3;

using Vector = std::vector<float>;  // [kDim]
using Rows = std::map<uint64_t, Vector>;

HostTensor Normals(int64_t rows, int64_t columns, Random* random) {
  HostTensor tensor{{rows, columns}, Vector(static_cast<size_t>(rows * columns))};
  for (float& x : tensor.data) x = static_cast<float>(random->Normal());
  return tensor;
}

// Three levels of four codes, and rows for the codes 1, 2, 3 and their prefixes.
class AlignerTest : public testing::Test {
 protected:
  AlignerTest() {
    config_.model.prefix_ngrams = true;
    config_.model.fusion_hidden = kHidden;
    config_.model.hybrid_shrinkage = kShrinkage;
    config_.encoder.dim = kDim;
    config_.codebook.levels = 3;
    config_.codebook.codes = 4;
  }

  // `updates`: of every row; 0: the table has no such column.
  TableChain Write(const Rows& rows, uint32_t updates = 0) {
    const auto path = folder_ / ("table" + std::to_string(written_++));
    std::vector<Column> columns = RowColumns("row", kDim, Precision::kFloat32);
    if (updates > 0) columns.push_back({kUpdatesColumn, ColumnType::kU32, 1});
    auto writer = TableWriter::Create(path, columns, nullptr);
    EXPECT_TRUE(writer.ok()) << writer.status();
    for (const auto& [key, row] : rows) {
      std::vector<std::byte> record(EncodedBytes(kDim, Precision::kFloat32));
      EncodeRow(row, Precision::kFloat32, record.data());
      const auto more = std::as_bytes(std::span(&updates, 1));
      if (updates > 0) record.insert(record.end(), more.begin(), more.end());
      EXPECT_TRUE((*writer)->Add(key, record).ok());
    }
    EXPECT_TRUE((*writer)->Finish().ok());
    writer->reset();
    auto file = TableFile::Open(path);
    EXPECT_TRUE(file.ok()) << file.status();
    return *TableChain::Of({*file});
  }

  // Of a model whose fusion has `parts` parts.
  absl::StatusOr<Aligner> Make(int64_t parts) {
    Random random(5);
    ranker_.tensors["fusion.in.weight"] = Normals(kHidden, parts * kDim, &random);
    ranker_.tensors["fusion.out.weight"] = Normals(kDim, kHidden, &random);
    return Aligner::Of(config_, ranker_,
                       {.align = Write(align_),
                        .prefix = Write(prefix_),
                        .content_vector = Write({{kContent, own_}}, kUpdates)});
  }

  // z~ is z + out silu(in [parts]).
  void ExpectAligned(const Aligner& aligner, const std::vector<uint16_t>& codes,
                     std::optional<uint64_t> key, const std::vector<Vector>& parts) {
    const Vector z = {0.6f, -0.8f};
    Vector aligned(kDim);
    aligner.Align(z, codes, key, aligned);
    const Vector& in = ranker_.tensors.at("fusion.in.weight").data;
    const Vector& out = ranker_.tensors.at("fusion.out.weight").data;
    std::vector<double> expected(z.begin(), z.end());
    for (size_t h = 0; h < kHidden; ++h) {
      double sum = 0;
      for (size_t i = 0; i < parts.size() * kDim; ++i) {
        sum += static_cast<double>(in[h * parts.size() * kDim + i]) * parts[i / kDim][i % kDim];
      }
      for (size_t d = 0; d < kDim; ++d) {
        expected[d] += out[d * kHidden + h] * sum / (1 + std::exp(-sum));
      }
    }
    for (size_t d = 0; d < kDim; ++d) EXPECT_NEAR(aligned[d], expected[d], 1e-4) << d;
  }

  const TempFolder folder_;
  int written_ = 0;  // tables
  Config config_;
  TensorFile ranker_;
  const Rows align_ = {{AlignKey(0, 0, 1), {0.5f, 1}},
                       {AlignKey(0, 1, 2), {-1, 0.25f}},
                       {AlignKey(0, 2, 3), {2, -0.5f}}};
  // Of two codes: 1 2 = 1 * 4 + 2. Of three: 1 2 3 = 6 * 4 + 3. No other prefix has a row.
  const Rows prefix_ = {{(uint64_t{1} << 45) + 6, {-0.75f, 1.5f}},
                        {(uint64_t{2} << 45) + 27, {1.25f, 0.125f}}};
  const Vector own_ = {-2, 4};
  const Vector none_ = {0, 0};
};

TEST_F(AlignerTest, AddsWhatTheFusionMakesOfCodesPrefixesAndTheContentsOwn) {
  const auto aligner = Make(6);
  ASSERT_TRUE(aligner.ok()) << aligner.status();
  constexpr auto kShrink = static_cast<float>(kUpdates / (kUpdates + kShrinkage));
  ExpectAligned(*aligner, {1, 2, 3}, kContent,
                {{0.5f, 1},
                 {-1, 0.25f},
                 {2, -0.5f},
                 {-0.75f, 1.5f},
                 {1.25f, 0.125f},
                 {-2 * kShrink, 4 * kShrink}});
  // Other codes at the end: they share the prefix of two.
  ExpectAligned(*aligner, {1, 2, 0}, std::nullopt,
                {{0.5f, 1}, {-1, 0.25f}, none_, {-0.75f, 1.5f}, none_, none_});
  ExpectAligned(*aligner, {2, 1, 3}, std::nullopt, {none_, none_, {2, -0.5f}, none_, none_, none_});
}

TEST_F(AlignerTest, OfCodesAlonePutsPrefixesLast) {
  config_.model.alignment = std::string("codes");
  const auto aligner = Make(5);
  ASSERT_TRUE(aligner.ok()) << aligner.status();
  ExpectAligned(*aligner, {1, 2, 3}, kContent,
                {{0.5f, 1}, {-1, 0.25f}, {2, -0.5f}, {-0.75f, 1.5f}, {1.25f, 0.125f}});
}

TEST_F(AlignerTest, HasNoPrefixesWhereTheModelHasNone) {
  config_.model.prefix_ngrams = false;
  const absl::Status status = Make(6).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr("fusion.in.weight"), HasSubstr("[3, 8]")));
  config_.model.alignment = std::string("codes");
  const auto plain = Make(3);
  ASSERT_TRUE(plain.ok()) << plain.status();
  ExpectAligned(*plain, {1, 2, 3}, kContent, {{0.5f, 1}, {-1, 0.25f}, {2, -0.5f}});
  // An arm without codes has no prefixes of them either.
  config_.model.prefix_ngrams = true;
  config_.model.arm = std::string("free_content");
  const auto own = Make(1);
  ASSERT_TRUE(own.ok()) << own.status();
  ExpectAligned(*own, {}, kContent, {own_});
}

}  // namespace
}  // namespace savior
