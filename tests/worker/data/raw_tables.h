// Tiny raw data sets for tests: rows as structs, written as Parquet in the shapes that users bring.
#pragma once

#include <arrow/array.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/common/temp_folder.h"
#include "worker/data/prepare.h"
#include "worker/data/training_log.h"

namespace savior::testing {

// Arrays, for replacing a column by another one.
std::shared_ptr<arrow::Array> Ints(const std::vector<std::optional<int64_t>>& values);
std::shared_ptr<arrow::Array> Int8s(const std::vector<int64_t>& values);
std::shared_ptr<arrow::Array> Reals(const std::vector<std::optional<float>>& values);
std::shared_ptr<arrow::Array> Texts(const std::vector<std::optional<std::string>>& values);
std::shared_ptr<arrow::Array> LargeTexts(const std::vector<std::optional<std::string>>& values);
std::shared_ptr<arrow::Array> Dictionary(const std::vector<std::optional<std::string>>& values);
enum class Element { kHalf, kFloat, kDouble };
// Lists of any lengths; an empty optional is a null. `fixed`: FixedSizeList of the first's length.
std::shared_ptr<arrow::Array> Lists(const std::vector<std::optional<std::vector<float>>>& values,
                                    Element element, bool fixed);

// Columns of one table, in order.
struct Columns {
  std::vector<std::pair<std::string, std::shared_ptr<arrow::Array>>> columns;

  // Replaces a column, or adds one.
  void Set(const std::string& name, std::shared_ptr<arrow::Array> values);
  void Drop(const std::string& name);
  int64_t rows() const;
};

struct RawImpression {
  int64_t request = 0, user = 0, item = 0, time = 0;
  int click = 0, conversion = 0;
  float weight = 1;
  std::string channel;
  float hour = 0;
};

struct RawBehaviour {
  int64_t user = 0, item = 0, time = 0;
  std::string kind = "click";
};

struct RawItem {
  int64_t id = 0, listed = 0;
  std::string title, brand;
  std::optional<float> price;
};

struct RawVector {
  int64_t id = 0;
  std::optional<std::vector<float>> text;
};

struct RawData {
  std::vector<RawImpression> impressions;
  std::vector<RawBehaviour> behaviours;
  std::vector<RawItem> items;
  std::vector<RawVector> vectors;

  // All columns of the schema.
  std::map<std::string, Columns> Tables() const;
};

// Writes <folder>/<table>.parquet, or with parts > 1 <folder>/<table>/part-*.parquet of as equal
// rows as can be. Row groups have `group_rows`.
void WriteTables(const std::map<std::string, Columns>& tables, const std::filesystem::path& folder,
                 int parts = 1, int64_t group_rows = 1000);

// Random data: `requests` requests over `days` days, with ties in time, interleaved rows, items
// without a vector, users without behaviours, and behaviours in the very seconds of requests.
RawData RandomRaw(uint64_t seed, int requests, int days);

// Requests 1 to 3 of users 10 and 20 on items 100, 101 and 102 (102 has no vector). See the .cc.
RawData TinyRaw();

inline constexpr int64_t kDay = 86'400;
inline constexpr int64_t kStart = 19'000 * kDay;

using Folder = TempFolder;

// Writes, prepares and opens; failures fail the test.
std::unique_ptr<TrainingLog> PrepareAndOpen(const RawData& data, const Folder& folder,
                                            const std::string& name = "x",
                                            int64_t memory_bytes = int64_t{1} << 20);

// Every file below a folder: path -> bytes.
std::map<std::string, std::string> FilesOf(const std::filesystem::path& folder);

}  // namespace savior::testing
