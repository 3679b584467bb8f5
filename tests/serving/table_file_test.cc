#include "serving/table_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>

#include "common/files.h"
#include "common/random.h"
#include "serving/row_codec.h"
#include "tests/common/temp_folder.h"

namespace savior {
namespace {

using testing::HasSubstr;
using Rows = std::map<uint64_t, std::string>;  // key -> record

const std::vector<Column> kColumns = {
    {"small", ColumnType::kU16, 1}, {"row", ColumnType::kI8, 5}, {"count", ColumnType::kU32, 1}};
constexpr size_t kRecord = 2 + 5 + 4;

std::span<const std::byte> Bytes(const std::string& record) {
  return std::as_bytes(std::span(record));
}

class TableFileTest : public testing::Test {
 protected:
  std::shared_ptr<const TableFile> Write(const std::string& name, const Rows& rows,
                                         const TableChain* base = nullptr) {
    auto writer = TableWriter::Create(folder_ / name, kColumns, base);
    EXPECT_TRUE(writer.ok()) << writer.status();
    for (const auto& [key, record] : rows) EXPECT_TRUE((*writer)->Add(key, Bytes(record)).ok());
    const auto counts = (*writer)->Finish();
    EXPECT_TRUE(counts.ok()) << counts.status();
    writer->reset();
    auto file = TableFile::Open(folder_ / name);
    EXPECT_TRUE(file.ok()) << file.status();
    EXPECT_EQ((*file)->rows(), counts->rows);
    EXPECT_EQ((*file)->gone().size(), counts->gone);
    EXPECT_TRUE((*file)->CheckOrder().ok()) << (*file)->CheckOrder();
    return *file;
  }

  static Rows ReadAll(const TableChain& chain) {
    Rows rows;
    for (TableChain::Cursor cursor(&chain); cursor.at(); cursor.Next()) {
      std::string record(kRecord, '\0');
      cursor.at()->file->CopyRecord(cursor.at()->row,
                                    std::as_writable_bytes(std::span(record)).data());
      EXPECT_TRUE(rows.empty() || cursor.at()->key() > rows.rbegin()->first);
      rows[cursor.at()->key()] = record;
    }
    return rows;
  }

  std::string Content(const std::string& name) { return *ReadFile(folder_ / name); }

  const TempFolder folder_;
};

Rows RandomRows(uint64_t seed, size_t count) {
  Random random(seed, 0);
  Rows rows;
  while (rows.size() < count) {
    std::string record(kRecord, '\0');
    for (char& byte : record) byte = static_cast<char>(random.Below(256));
    rows[random.Below(5 * count)] = record;
  }
  return rows;
}

// Changes, adds and drops a tenth each.
Rows Changed(Rows rows, uint64_t seed) {
  Random random(seed, 1);
  const size_t some = rows.size() / 10 + 1;
  for (size_t i = 0; i < some && !rows.empty(); ++i) {
    rows.erase(std::next(rows.begin(), static_cast<long>(random.Below(rows.size()))));
  }
  for (const auto& [key, record] : RandomRows(seed + 1000, some)) rows[key * 3] = record;
  return rows;
}

TEST_F(TableFileTest, RowsComeBack) {
  for (const size_t count : {0, 1, 63, 64, 65, 1000}) {
    const Rows rows = RandomRows(count, count);
    const auto file = Write("t", rows);
    const TableChain chain = *TableChain::Of({file});
    EXPECT_EQ(ReadAll(chain), rows);
    EXPECT_EQ(file->columns(), kColumns);
    for (uint64_t key = 0; key <= 5 * count; ++key) {
      const auto place = chain.Find(key);
      ASSERT_EQ(place.has_value(), rows.contains(key)) << count << " rows, key " << key;
      if (place) {
        EXPECT_EQ(place->key(), key);
      }
    }
    EXPECT_FALSE(chain.Find(UINT64_MAX).has_value());
  }
}

TEST_F(TableFileTest, TheLastKeyMayBeTheLargest) {
  const auto file =
      Write("t", {{0, std::string(kRecord, 'a')}, {UINT64_MAX, std::string(kRecord, 'b')}});
  EXPECT_EQ(file->Find(UINT64_MAX), 1u);
  EXPECT_EQ(file->Find(0), 0u);
  EXPECT_EQ(file->Find(5), std::nullopt);
}

// A chain of deltas reads as the newest table, and written out as a full table has its very bytes.
TEST_F(TableFileTest, DeltasAmountToTheFullTable) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Rows rows = RandomRows(seed, seed % 4 == 0 ? 0 : 300);
    std::vector<std::shared_ptr<const TableFile>> files = {Write("0", rows)};
    for (int d = 1; d <= 4; ++d) {
      const TableChain base = *TableChain::Of(files);
      rows = Changed(rows, seed * 10 + static_cast<uint64_t>(d));
      files.push_back(Write(std::to_string(d), rows, &base));
      EXPECT_LT(files.back()->rows(), rows.size() / 2 + 40) << "only what differs";
    }
    const TableChain chain = *TableChain::Of(files);
    ASSERT_EQ(ReadAll(chain), rows);
    for (uint64_t key = 0; key < 1600; ++key) {
      ASSERT_EQ(chain.Find(key).has_value(), rows.contains(key)) << key;
    }
    Write("merged", ReadAll(chain));
    Write("full", rows);
    EXPECT_EQ(Content("merged"), Content("full"));
  }
}

TEST_F(TableFileTest, AnUnchangedTablesDeltaIsEmpty) {
  const Rows rows = RandomRows(7, 500);
  const TableChain base = *TableChain::Of({Write("base", rows)});
  const auto delta = Write("delta", rows, &base);
  EXPECT_EQ(delta->rows(), 0u);
  EXPECT_TRUE(delta->gone().empty());
  EXPECT_EQ(ReadAll(*TableChain::Of({base.files()[0], delta})), rows);
}

TEST_F(TableFileTest, ChainsThatAreNoneAreRefused) {
  const auto full = Write("full", RandomRows(1, 10));
  const TableChain base = *TableChain::Of({full});
  const auto delta = Write("delta", RandomRows(2, 10), &base);
  for (const auto& files : {std::vector{delta}, std::vector{full, full}}) {
    const auto chain = TableChain::Of(files);
    EXPECT_TRUE(absl::IsFailedPrecondition(chain.status())) << chain.status();
    EXPECT_THAT(chain.status().message(), HasSubstr((folder_ / "").string()));
  }
  const auto other = TableWriter::Create(folder_ / "o", {{"row", ColumnType::kF32, 4}}, &base);
  EXPECT_TRUE(absl::IsFailedPrecondition(other.status())) << other.status();
}

TEST_F(TableFileTest, KeysMustAscendAndRecordsBeWhole) {
  auto writer = *TableWriter::Create(folder_ / "t", kColumns, nullptr);
  const std::string record(kRecord, 'x');
  ASSERT_TRUE(writer->Add(5, Bytes(record)).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(writer->Add(5, Bytes(record))));
  EXPECT_TRUE(absl::IsInvalidArgument(writer->Add(4, Bytes(record))));
  EXPECT_TRUE(absl::IsInvalidArgument(writer->Add(6, Bytes(record + "y"))));
  EXPECT_TRUE(absl::IsInvalidArgument(TableWriter::Create(folder_ / "u", {}, nullptr).status()));
}

TEST_F(TableFileTest, AWriterThatIsNotFinishedLeavesNothing) {
  {
    auto writer = *TableWriter::Create(folder_ / "t", kColumns, nullptr);
    ASSERT_TRUE(writer->Add(5, Bytes(std::string(kRecord, 'x'))).ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

// Whatever a header says, the file is refused or read, and never beyond its end (asan).
TEST_F(TableFileTest, DamagedFilesAreRefused) {
  Write("t", RandomRows(3, 100));
  const std::string whole = Content("t");
  Random random(11, 0);
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = whole;
    if (i % 4 == 0) {
      bytes.resize(random.Below(bytes.size()));
    } else {
      bytes[random.Below(i % 2 == 0 ? 400 : bytes.size())] ^=
          static_cast<char>(1u << random.Below(8));
    }
    std::ofstream(folder_ / "bad", std::ios::binary) << bytes;
    const auto file = TableFile::Open(folder_ / "bad");
    if (!file.ok()) {
      ++refused;
      EXPECT_TRUE(absl::IsDataLoss(file.status())) << file.status();
      EXPECT_THAT(file.status().message(), HasSubstr("bad"));
      continue;
    }
    for (uint64_t key = 0; key < 500; key += 7) (*file)->Find(key);
    (*file)->CheckOrder().IgnoreError();
    const auto chain = TableChain::Of({*file});
    if (chain.ok()) {
      std::string record((*file)->record_bytes(), '\0');
      for (uint64_t row = 0; row < (*file)->rows(); ++row) {
        (*file)->CopyRecord(row, std::as_writable_bytes(std::span(record)).data());
      }
    }
  }
  EXPECT_GT(refused, 1000);
  EXPECT_TRUE(absl::IsNotFound(TableFile::Open(folder_ / "none").status()));
}

TEST(RowCodec, KeepsRowsWithinItsPrecision) {
  const TempFolder folder;
  const std::vector<std::vector<float>> rows = {
      {0, 0, 0, 0}, {1, -1, .5f, 1e-3f}, {127, -127, 1, 2}, {1e5f, -1e5f, 3, 1e-30f}};
  for (const auto& [precision, error] :
       {std::pair{Precision::kFloat32, 0.0}, std::pair{Precision::kFloat16, 1.0 / 2048},
        std::pair{Precision::kInt8, 1.0 / 253}}) {
    auto writer = *TableWriter::Create(folder / "t", RowColumns("row", 4, precision), nullptr);
    std::vector<std::byte> record(EncodedBytes(4, precision));
    for (size_t i = 0; i < 3; ++i) {
      EncodeRow(rows[i], precision, record.data());
      ASSERT_TRUE(writer->Add(i, record).ok());
    }
    EncodeRow(rows[3], precision, record.data());
    ASSERT_TRUE(writer->Add(3, record).ok());
    ASSERT_TRUE(writer->Finish().ok());
    writer.reset();
    const TableChain chain = *TableChain::Of({*TableFile::Open(folder / "t")});
    const auto decoder = RowDecoder::Of(chain.columns(), "row", 4);
    ASSERT_TRUE(decoder.ok()) << decoder.status();
    EXPECT_EQ(decoder->precision(), precision);
    for (size_t i = 0; i < rows.size(); ++i) {
      std::vector<float> row(4);
      decoder->Decode(*chain.Find(i), row);
      for (size_t k = 0; k < 4; ++k) {
        // Half's largest stands for what is beyond it; int8's step is of the row's largest.
        const float expected = precision == Precision::kFloat16
                                   ? std::clamp(rows[i][k], -65504.0f, 65504.0f)
                                   : rows[i][k];
        const double scale = precision == Precision::kInt8
                                 ? std::abs(*std::ranges::max_element(
                                       rows[i], {}, [](float x) { return std::abs(x); }))
                                 : std::abs(expected);
        EXPECT_NEAR(row[k], expected, error * scale + (error > 0 ? 1e-7 : 0));
      }
    }
    EXPECT_TRUE(absl::IsDataLoss(RowDecoder::Of(chain.columns(), "row", 8).status()));
    EXPECT_TRUE(absl::IsDataLoss(RowDecoder::Of(chain.columns(), "z", 4).status()));
  }
}

}  // namespace
}  // namespace savior
