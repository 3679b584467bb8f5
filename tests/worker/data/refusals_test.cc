// What the raw schema refuses: each refusal names file, row and column.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <limits>

#include "tests/worker/data/raw_tables.h"
#include "worker/data/prepare.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using testing::Columns;
using testing::Element;
using ::testing::HasSubstr;
using testing::Ints;
using testing::Lists;
using testing::Reals;
using testing::Texts;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Refusal {
  std::string name;
  std::string table;
  std::function<void(Columns*)> spoil;
  std::vector<std::string> message;  // substrings, beside the file's name
};

// TinyRaw's impressions: requests 3 2 1 2 1, users 10 20 10 20 10, items 102 100 101 101 100.
std::vector<Refusal> Refusals() {
  const auto set = [](const std::string& column, std::shared_ptr<arrow::Array> values) {
    return [column, values](Columns* columns) { columns->Set(column, values); };
  };
  const auto drop = [](const std::string& column) {
    return [column](Columns* columns) { columns->Drop(column); };
  };
  const std::string i = "impressions", b = "behaviours", t = "items", v = "item_vectors";
  const int64_t noon = testing::kStart + testing::kDay / 2;
  return {
      {"MissingRequestId", i, drop("request_id"), {"column 'request_id' is missing"}},
      {"MissingClick", i, drop("click"), {"column 'click' is missing"}},
      {"MissingKind", b, drop("kind"), {"column 'kind' is missing"}},
      {"MissingListedAt", t, drop("listed_at"), {"column 'listed_at' is missing"}},
      {"MissingVectorId", v, drop("item_id"), {"column 'item_id' is missing"}},
      {"NoVectorColumn", v, drop("text"), {"no vector column"}},
      {"TextAsId",
       i,
       set("user_id", Texts({"a", "b", "c", "d", "e"})),
       {"column 'user_id' is string, not an integer"}},
      {"FloatAsTime",
       b,
       set("timestamp", Reals({1, 2, 3, 4})),
       {"column 'timestamp' is float, not an integer"}},
      {"NumberAsVector", v, set("text", Reals({1, 2})), {"column 'text' is float, not a list"}},
      {"FloatAsCategory",
       t,
       set("feat_brand", Reals({1, 2, 3})),
       {"column 'feat_brand' is float, not a string"}},
      {"TextAsNumber",
       t,
       set("num_price", Texts({"1", "2", "3"})),
       {"column 'num_price' is string, not a number"}},
      {"NullId",
       i,
       set("item_id", Ints({102, 100, {}, 101, 100})),
       {"row 2, column 'item_id': is missing"}},
      {"UnknownItem",
       i,
       set("item_id", Ints({102, 100, 101, 99, 100})),
       {"row 3, column 'item_id': 99 is not in items"}},
      {"UnknownItemOfBehaviour",
       b,
       set("item_id", Ints({100, 101, 103, 102})),
       {"row 2, column 'item_id': 103 is not in items"}},
      {"UnknownItemOfVector",
       v,
       set("item_id", Ints({101, 7})),
       {"row 1, column 'item_id': 7 is not in items"}},
      {"NoItemsId",
       t,
       set("item_id", Ints({100, -1, 102})),
       {"row 1, column 'item_id': is -1, which stands for no item"}},
      {"DuplicateItem",
       t,
       set("item_id", Ints({100, 102, 100})),
       {"row 2, column 'item_id': 100 is there already, at ", "items.parquet: row 0"}},
      {"DuplicateVector",
       v,
       set("item_id", Ints({101, 101})),
       {"row 1, column 'item_id': 101 is there already, at ", "row 0"}},
      {"ClickOfTwo",
       i,
       set("click", Ints({0, 2, 0, 0, 1})),
       {"row 1, column 'click': is 2, not 0 or 1"}},
      {"NegativeConversion",
       i,
       set("conversion", Ints({0, 0, 0, 0, -1})),
       {"row 4, column 'conversion': is -1, not 0 or 1"}},
      {"ConversionWithoutClick",
       i,
       set("conversion", Ints({0, 0, 0, 1, 0})),
       {"row 3, column 'conversion': is 1 without a click"}},
      {"NegativeTime",
       i,
       set("timestamp", Ints({1, 2, -3, 2, -3})),
       {"row 2, column 'timestamp': is negative"}},
      {"NegativeTimeOfBehaviour",
       b,
       set("timestamp", Ints({1, 2, 3, -4})),
       {"row 3, column 'timestamp': is negative"}},
      {"NegativeListing",
       t,
       set("listed_at", Ints({1, -2, 3})),
       {"row 1, column 'listed_at': is negative"}},
      {"Milliseconds",
       b,
       set("timestamp", Ints({1, 2, 1'700'000'000'000, 4})),
       {"row 2, column 'timestamp': ", "milliseconds?"}},
      {"TwoUsers",
       i,
       set("user_id", Ints({10, 20, 10, 21, 10})),
       {"row 3, column 'user_id': request 2 has 21 here and 20 at ", "row 1"}},
      {"TwoTimes",
       i,
       set("timestamp", Ints({1, noon, noon, noon, noon + 1})),
       {"row 4, column 'timestamp': request 1 has ", "row 2"}},
      {"TwoDays",
       i,
       set("timestamp", Ints({1, noon, noon, noon, noon + testing::kDay})),
       {"row 4, column 'timestamp': request 1 has ", "row 2"}},
      {"NaNNumber",
       i,
       set("num_hour", Reals({1, 2, 3, kNaN, 5})),
       {"row 3, column 'num_hour': is NaN"}},
      {"InfiniteNumber",
       t,
       set("num_price", Reals({1, 2, kInfinity})),
       {"row 2, column 'num_price': is NaN, infinite"}},
      {"ZeroWeight",
       i,
       set("weight", Reals({1, 1, 0, 1, 1})),
       {"row 2, column 'weight': is 0, not positive"}},
      {"NullWeight",
       i,
       set("weight", Reals({1, 1, 1, {}, 1})),
       {"row 3, column 'weight': is missing"}},
      {"NullKind",
       b,
       set("kind", Texts({"a", std::nullopt, "b", "c"})),
       {"row 1, column 'kind': is missing or empty"}},
      {"NotUtf8",
       t,
       set("feat_brand", Texts({"a", "\xff\xfe", "b"})),
       {"row 1, column 'feat_brand': is not UTF-8"}},
      {"NotUtf8Title",
       t,
       set("title", Texts({"a", "b", "\xc3"})),
       {"row 2, column 'title': is not UTF-8"}},
      {"NaNVector",
       v,
       set("text", Lists({{{1, 2}}, {{1, kNaN}}}, Element::kFloat, true)),
       {"row 1, column 'text': element 1 is NaN"}},
      {"InfiniteHalfVector",
       v,
       set("text", Lists({{{kInfinity, 2}}, {{1, 1}}}, Element::kHalf, true)),
       {"row 0, column 'text': element 0 is NaN, infinite"}},
      {"VectorBeyondFloat16",
       v,
       set("text", Lists({{{1, 2}}, {{1e6, 1}}}, Element::kDouble, false)),
       {"row 1, column 'text': element 0", "beyond float16"}},
      {"VectorsOfTwoLengths",
       v,
       set("text", Lists({{{1, 2}}, {{1, 2, 3}}}, Element::kHalf, false)),
       {"row 1, column 'text': has 3 elements where others have 2"}},
      {"EmptyVector",
       v,
       set("text", Lists({{{1, 2}}, {{}}}, Element::kHalf, false)),
       {"row 1, column 'text': is an empty vector"}},
  };
}

class RawRefusal : public ::testing::TestWithParam<Refusal> {};

TEST_P(RawRefusal, NamesFileRowAndColumn) {
  const testing::Folder folder;
  auto tables = testing::TinyRaw().Tables();
  GetParam().spoil(&tables[GetParam().table]);
  WriteTables(tables, folder / "raw");
  const auto summary = Prepare({.raw = folder / "raw", .out = folder / "log"});
  ASSERT_TRUE(absl::IsInvalidArgument(summary.status())) << summary.status();
  const std::string message(summary.status().message());
  EXPECT_THAT(message, HasSubstr((folder / "raw").string() + "/" + GetParam().table + ".parquet"));
  for (const std::string& part : GetParam().message) EXPECT_THAT(message, HasSubstr(part));
  EXPECT_FALSE(fs::exists(folder / "log"));
  EXPECT_FALSE(fs::exists(folder / "log.part"));
}

INSTANTIATE_TEST_SUITE_P(All, RawRefusal, ::testing::ValuesIn(Refusals()),
                         [](const auto& param) { return param.param.name; });

TEST(RawParts, RefusalNamesThePartAndItsRow) {
  const testing::Folder folder;
  auto tables = testing::TinyRaw().Tables();
  tables["impressions"].Set("item_id", Ints({102, 100, 101, 99, 100}));
  WriteTables(tables, folder / "raw", /*parts=*/2);  // of 2 and 3 rows
  const auto summary = Prepare({.raw = folder / "raw", .out = folder / "log"});
  EXPECT_THAT(std::string(summary.status().message()),
              HasSubstr("impressions/part-1.parquet: row 1, column 'item_id': 99"));
}

TEST(RawParts, RefusesPartsOfOtherSchemas) {
  const testing::Folder folder;
  auto tables = testing::TinyRaw().Tables();
  WriteTables(tables, folder / "raw", /*parts=*/2);
  auto other = tables;
  other["impressions"].Drop("num_hour");
  WriteTables(other, folder / "other", /*parts=*/2);
  fs::copy_file(folder / "other/impressions/part-1.parquet",
                folder / "raw/impressions/part-1.parquet", fs::copy_options::overwrite_existing);
  auto summary = Prepare({.raw = folder / "raw", .out = folder / "log"});
  EXPECT_THAT(std::string(summary.status().message()),
              HasSubstr("part-1.parquet: column 'num_hour' is missing"));

  // A vectors file of another length than its siblings.
  other = tables;
  other["item_vectors"].Set("text", Lists({{{1, 2, 3}}, {{4, 5, 6}}}, Element::kHalf, true));
  WriteTables(other, folder / "third", /*parts=*/2);
  WriteTables(tables, folder / "raw", /*parts=*/2);
  fs::copy_file(folder / "third/item_vectors/part-1.parquet",
                folder / "raw/item_vectors/part-1.parquet", fs::copy_options::overwrite_existing);
  summary = Prepare({.raw = folder / "raw", .out = folder / "log"});
  EXPECT_THAT(std::string(summary.status().message()),
              HasSubstr("item_vectors/part-1.parquet: row 0, column 'text': has 3 elements"));
}

TEST(RawParts, RefusesWhatIsNoParquet) {
  const testing::Folder folder;
  WriteTables(testing::TinyRaw().Tables(), folder / "raw");
  std::ofstream(folder / "raw/items.parquet") << "item_id,listed_at\n1,2\n";
  const auto summary = Prepare({.raw = folder / "raw", .out = folder / "log"});
  EXPECT_TRUE(absl::IsInvalidArgument(summary.status())) << summary.status();
  EXPECT_THAT(std::string(summary.status().message()), HasSubstr("items.parquet"));
}

TEST(RawParts, EmptyFolderIsNotFound) {
  const testing::Folder folder;
  WriteTables(testing::TinyRaw().Tables(), folder / "raw");
  fs::remove(folder / "raw/behaviours.parquet");
  fs::create_directories(folder / "raw/behaviours");
  const auto summary = Prepare({.raw = folder / "raw", .out = folder / "log"});
  EXPECT_TRUE(absl::IsNotFound(summary.status())) << summary.status();
  EXPECT_THAT(std::string(summary.status().message()), HasSubstr("behaviours.parquet: not found"));
}

}  // namespace
}  // namespace savior
