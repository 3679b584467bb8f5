#include "tests/worker/data/raw_tables.h"

#include <arrow/builder.h>
#include <arrow/io/file.h>
#include <arrow/record_batch.h>
#include <arrow/table.h>
#include <arrow/util/float16.h>
#include <gtest/gtest.h>
#include <parquet/arrow/writer.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <sstream>

#include "common/random.h"

namespace savior::testing {
namespace {

namespace fs = std::filesystem;

void Require(const arrow::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

template <typename Builder, typename Values>
std::shared_ptr<arrow::Array> Build(Builder* builder, const Values& values) {
  for (const auto& value : values) {
    Require(value ? builder->Append(*value) : builder->AppendNull());
  }
  return builder->Finish().ValueOrDie();
}

template <typename T, typename Get>
auto Map(const std::vector<T>& rows, Get get) {
  std::vector<std::optional<std::decay_t<decltype(get(rows.front()))>>> values;
  for (const T& row : rows) values.emplace_back(get(row));
  return values;
}

void AppendElement(arrow::ArrayBuilder* builder, Element element, float value) {
  switch (element) {
    case Element::kHalf:
      return Require(static_cast<arrow::HalfFloatBuilder*>(builder)->Append(
          arrow::util::Float16::FromFloat(value).bits()));
    case Element::kFloat:
      return Require(static_cast<arrow::FloatBuilder*>(builder)->Append(value));
    case Element::kDouble:
      return Require(static_cast<arrow::DoubleBuilder*>(builder)->Append(value));
  }
}

std::shared_ptr<arrow::ArrayBuilder> ElementBuilder(Element element) {
  switch (element) {
    case Element::kHalf:
      return std::make_shared<arrow::HalfFloatBuilder>();
    case Element::kFloat:
      return std::make_shared<arrow::FloatBuilder>();
    case Element::kDouble:
      return std::make_shared<arrow::DoubleBuilder>();
  }
  return nullptr;
}

void WritePart(const Columns& columns, int64_t begin, int64_t end, const fs::path& path,
               int64_t group_rows) {
  arrow::FieldVector fields;
  arrow::ArrayVector arrays;
  for (const auto& [name, values] : columns.columns) {
    fields.push_back(arrow::field(name, values->type()));
    arrays.push_back(values->Slice(begin, end - begin));
  }
  const auto table = arrow::Table::Make(arrow::schema(fields), arrays, end - begin);
  auto sink = arrow::io::FileOutputStream::Open(path.string()).ValueOrDie();
  Require(parquet::arrow::WriteTable(
      *table, arrow::default_memory_pool(), sink, group_rows, parquet::default_writer_properties(),
      parquet::ArrowWriterProperties::Builder().store_schema()->build()));
  Require(sink->Close());
}

}  // namespace

std::shared_ptr<arrow::Array> Ints(const std::vector<std::optional<int64_t>>& values) {
  arrow::Int64Builder builder;
  return Build(&builder, values);
}

std::shared_ptr<arrow::Array> Int8s(const std::vector<int64_t>& values) {
  arrow::Int8Builder builder;
  for (const int64_t value : values) Require(builder.Append(static_cast<int8_t>(value)));
  return builder.Finish().ValueOrDie();
}

std::shared_ptr<arrow::Array> Reals(const std::vector<std::optional<float>>& values) {
  arrow::FloatBuilder builder;
  return Build(&builder, values);
}

std::shared_ptr<arrow::Array> Texts(const std::vector<std::optional<std::string>>& values) {
  arrow::StringBuilder builder;
  return Build(&builder, values);
}

std::shared_ptr<arrow::Array> LargeTexts(const std::vector<std::optional<std::string>>& values) {
  arrow::LargeStringBuilder builder;
  return Build(&builder, values);
}

std::shared_ptr<arrow::Array> Dictionary(const std::vector<std::optional<std::string>>& values) {
  arrow::StringDictionaryBuilder builder;
  return Build(&builder, values);
}

std::shared_ptr<arrow::Array> Lists(const std::vector<std::optional<std::vector<float>>>& values,
                                    Element element, bool fixed) {
  const auto elements = ElementBuilder(element);
  const auto fill = [&](auto* builder) {
    for (const auto& value : values) {
      if (!value) {
        Require(builder->AppendNull());
        continue;
      }
      Require(builder->Append());
      for (const float x : *value) AppendElement(elements.get(), element, x);
    }
    return builder->Finish().ValueOrDie();
  };
  if (fixed) {
    const auto first = std::find_if(values.begin(), values.end(),
                                    [](const auto& value) { return value.has_value(); });
    const auto dim = first == values.end() ? 2 : static_cast<int32_t>((*first)->size());
    arrow::FixedSizeListBuilder builder(arrow::default_memory_pool(), elements, dim);
    return fill(&builder);
  }
  arrow::ListBuilder builder(arrow::default_memory_pool(), elements);
  return fill(&builder);
}

void Columns::Set(const std::string& name, std::shared_ptr<arrow::Array> values) {
  for (auto& [column, old] : columns) {
    if (column == name) {
      old = std::move(values);
      return;
    }
  }
  columns.emplace_back(name, std::move(values));
}

void Columns::Drop(const std::string& name) {
  std::erase_if(columns, [&](const auto& column) { return column.first == name; });
}

int64_t Columns::rows() const { return columns.front().second->length(); }

std::map<std::string, Columns> RawData::Tables() const {
  std::map<std::string, Columns> tables;
  Columns& i = tables["impressions"];
  i.Set("request_id", Ints(Map(impressions, [](const auto& r) { return r.request; })));
  i.Set("user_id", Ints(Map(impressions, [](const auto& r) { return r.user; })));
  i.Set("item_id", Ints(Map(impressions, [](const auto& r) { return r.item; })));
  i.Set("timestamp", Ints(Map(impressions, [](const auto& r) { return r.time; })));
  std::vector<int64_t> clicks, conversions;
  for (const auto& r : impressions) {
    clicks.push_back(r.click);
    conversions.push_back(r.conversion);
  }
  i.Set("click", Int8s(clicks));
  i.Set("conversion", Int8s(conversions));
  i.Set("weight", Reals(Map(impressions, [](const auto& r) { return r.weight; })));
  i.Set("ctx_channel", Dictionary(Map(impressions, [](const auto& r) { return r.channel; })));
  i.Set("num_hour", Reals(Map(impressions, [](const auto& r) { return r.hour; })));
  Columns& b = tables["behaviours"];
  b.Set("user_id", Ints(Map(behaviours, [](const auto& r) { return r.user; })));
  b.Set("item_id", Ints(Map(behaviours, [](const auto& r) { return r.item; })));
  b.Set("timestamp", Ints(Map(behaviours, [](const auto& r) { return r.time; })));
  b.Set("kind", Texts(Map(behaviours, [](const auto& r) { return r.kind; })));
  Columns& t = tables["items"];
  t.Set("item_id", Ints(Map(items, [](const auto& r) { return r.id; })));
  t.Set("listed_at", Ints(Map(items, [](const auto& r) { return r.listed; })));
  t.Set("title", LargeTexts(Map(items, [](const auto& r) { return r.title; })));
  t.Set("feat_brand", Texts(Map(items, [](const auto& r) { return r.brand; })));
  std::vector<std::optional<float>> prices;
  for (const auto& r : items) prices.push_back(r.price);
  t.Set("num_price", Reals(prices));
  Columns& v = tables["item_vectors"];
  std::vector<std::optional<std::vector<float>>> texts;
  for (const auto& r : vectors) texts.push_back(r.text);
  v.Set("item_id", Ints(Map(vectors, [](const auto& r) { return r.id; })));
  v.Set("text", Lists(texts, Element::kHalf, /*fixed=*/true));
  return tables;
}

void WriteTables(const std::map<std::string, Columns>& tables, const fs::path& folder, int parts,
                 int64_t group_rows) {
  for (const auto& [name, columns] : tables) {
    if (parts == 1) {
      fs::create_directories(folder);
      WritePart(columns, 0, columns.rows(), folder / (name + ".parquet"), group_rows);
      continue;
    }
    fs::create_directories(folder / name);
    for (int p = 0; p < parts; ++p) {
      WritePart(columns, columns.rows() * p / parts, columns.rows() * (p + 1) / parts,
                folder / name / ("part-" + std::to_string(p) + ".parquet"), group_rows);
    }
  }
}

RawData TinyRaw() {
  RawData raw;
  raw.items = {{.id = 102, .listed = kStart, .title = "late", .brand = "b", .price = {}},
               {.id = 100, .listed = 5, .title = "first", .brand = "b", .price = 1.5f},
               {.id = 101, .listed = 7, .title = "", .brand = "a", .price = 2.5f}};
  raw.vectors = {{.id = 101, .text = {{1.0f, 2.0f}}}, {.id = 100, .text = {{0.5f, -1.0f}}}};
  // Raw order: not by time, and request 1 is interleaved with request 2.
  const int64_t noon = kStart + kDay / 2;
  raw.impressions = {
      {.request = 3, .user = 10, .item = 102, .time = noon + kDay, .channel = "web", .hour = 3},
      {.request = 2, .user = 20, .item = 100, .time = noon, .click = 1, .channel = "app"},
      {.request = 1, .user = 10, .item = 101, .time = noon, .channel = "app", .hour = 1},
      {.request = 2, .user = 20, .item = 101, .time = noon, .weight = 2, .channel = "web"},
      {.request = 1,
       .user = 10,
       .item = 100,
       .time = noon,
       .click = 1,
       .conversion = 1,
       .channel = "web",
       .hour = 2}};
  // User 30 has behaviours only, user 20 impressions only.
  raw.behaviours = {{.user = 10, .item = 100, .time = noon, .kind = "buy"},
                    {.user = 10, .item = 101, .time = noon - 1, .kind = "click"},
                    {.user = 30, .item = 102, .time = 0, .kind = "click"},
                    {.user = 10, .item = 102, .time = noon - 1, .kind = "click"}};
  return raw;
}

RawData RandomRaw(uint64_t seed, int requests, int days) {
  Random random(seed);
  const auto below = [&random](int64_t n) {
    return static_cast<int64_t>(random.Below(static_cast<uint64_t>(n)));
  };
  RawData raw;
  constexpr int64_t kItems = 30;
  for (int64_t i = 0; i < kItems; ++i) {
    // Ids descend and are sparse; brands are few; every fifth item has no vector.
    const int64_t id = 1'000'000 - 977 * i;
    raw.items.push_back({.id = id,
                         .listed = kStart - below(100 * kDay),
                         .title = "item " + std::to_string(i),
                         .brand = below(4) == 0 ? "" : "brand " + std::to_string(below(3)),
                         .price = static_cast<float>(below(100))});
    if (i % 5 == 0) continue;
    raw.vectors.push_back({.id = id, .text = {{static_cast<float>(below(4)), 1.0f, 0.25f}}});
  }
  const auto item = [&] { return raw.items[static_cast<size_t>(below(kItems))].id; };
  // Few seconds, so that times tie within and between users.
  const auto time = [&] { return kStart + below(days) * kDay + below(20) * 4000; };
  const auto user = [&] { return 7 + 1000 * below(12); };
  for (int r = 0; r < requests; ++r) {
    RawImpression impression{.request = 5000 - r, .user = user(), .time = time(), .channel = ""};
    for (int64_t rows = 1 + below(4); rows > 0; --rows) {
      impression.item = item();
      impression.click = static_cast<int>(below(2));
      impression.conversion = impression.click * static_cast<int>(below(2));
      impression.weight = 1.0f + static_cast<float>(below(3));
      impression.channel = below(5) == 0 ? "" : std::string(1, static_cast<char>('a' + below(3)));
      impression.hour = static_cast<float>(below(24));
      raw.impressions.push_back(impression);
    }
  }
  for (size_t i = raw.impressions.size(); i > 1; --i) {
    std::swap(raw.impressions[i - 1], raw.impressions[random.Below(i)]);
  }
  for (int b = 0; b < 3 * requests; ++b) {
    // Users 0 to 8 of the twelve: some have no history.
    raw.behaviours.push_back({.user = 7 + 1000 * below(9),
                              .item = item(),
                              .time = time() - (below(3) == 0 ? kDay : 0),
                              .kind = below(3) == 0 ? "buy" : "click"});
  }
  return raw;
}

std::unique_ptr<TrainingLog> PrepareAndOpen(const RawData& data, const Folder& folder,
                                            const std::string& name, int64_t memory_bytes) {
  WriteTables(data.Tables(), folder / (name + "-raw"));
  const auto summary = Prepare(
      {.raw = folder / (name + "-raw"), .out = folder / name, .memory_bytes = memory_bytes});
  EXPECT_TRUE(summary.ok()) << summary.status();
  auto log = TrainingLog::Open(folder / name);
  EXPECT_TRUE(log.ok()) << log.status();
  return log.ok() ? std::move(*log) : nullptr;
}

std::map<std::string, std::string> FilesOf(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    std::stringstream bytes;
    bytes << file.rdbuf();
    files[entry.path().lexically_relative(folder).string()] = bytes.str();
  }
  return files;
}

}  // namespace savior::testing
