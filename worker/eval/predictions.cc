#include "worker/eval/predictions.h"

#include <arrow/api.h>
#include <arrow/io/api.h>
#include <fmt/format.h>
#include <glog/logging.h>
#include <parquet/arrow/reader.h>
#include <parquet/arrow/writer.h>

#include <algorithm>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "common/files.h"

namespace savior {
namespace {

constexpr int64_t kRowGroupRows = 1 << 20;

absl::Status FromArrow(const arrow::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const auto code =
      status.IsOutOfMemory() ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kDataLoss;
  return absl::Status(code, status.ToString());
}

template <typename T>
absl::StatusOr<T> FromArrow(arrow::Result<T> result) {
  if (!result.ok()) return FromArrow(result.status());
  return std::move(result).ValueUnsafe();
}

// The columns of a table under construction, [n] each.
class ColumnWriter {
 public:
  // A column of `ArrowType` whose row i is value(i).
  template <typename ArrowType, typename Value>
  absl::Status Add(const std::string& name, int64_t rows, Value value) {
    typename arrow::TypeTraits<ArrowType>::BuilderType builder;
    SAVIOR_RETURN_IF_ERROR(FromArrow(builder.Reserve(rows)));
    for (int64_t i = 0; i < rows; ++i) builder.UnsafeAppend(value(static_cast<size_t>(i)));
    SAVIOR_ASSIGN_OR_RETURN(std::shared_ptr<arrow::Array> array, FromArrow(builder.Finish()));
    fields_.push_back(arrow::field(name, array->type(), /*nullable=*/false));
    arrays_.push_back(std::move(array));
    return absl::OkStatus();
  }

  std::shared_ptr<arrow::Table> Finish() const {
    return arrow::Table::Make(arrow::schema(fields_), arrays_);
  }

 private:
  arrow::FieldVector fields_;
  arrow::ArrayVector arrays_;
};

absl::Status AddRows(const TrainingLog& log, const Predictions& p, ColumnWriter* columns) {
  const int64_t n = p.rows();
  const std::span<const int64_t> users = log.user_ids();
  const std::span<const int64_t> items = log.item_ids();
  const auto user = [&](size_t i) { return users[static_cast<size_t>(p.users[i])]; };
  const auto item = [&](size_t i) { return items[static_cast<size_t>(p.items[i])]; };
  const auto of = [](const auto& values) { return [&values](size_t i) { return values[i]; }; };
  const auto flag = [](const std::vector<float>& values) {
    return [&values](size_t i) { return static_cast<int8_t>(values[i] > 0.5f ? 1 : 0); };
  };
  SAVIOR_RETURN_IF_ERROR(columns->Add<arrow::Int64Type>("user_id", n, user));
  SAVIOR_RETURN_IF_ERROR(columns->Add<arrow::Int64Type>("request_id", n, of(p.request_ids)));
  SAVIOR_RETURN_IF_ERROR(columns->Add<arrow::Int64Type>("item_id", n, item));
  SAVIOR_RETURN_IF_ERROR(columns->Add<arrow::Int64Type>("timestamp", n, of(p.timestamps)));
  SAVIOR_RETURN_IF_ERROR(columns->Add<arrow::Int32Type>("prior_count", n, of(p.prior_counts)));
  SAVIOR_RETURN_IF_ERROR(columns->Add<arrow::FloatType>("weight", n, of(p.weights)));
  SAVIOR_RETURN_IF_ERROR(columns->Add<arrow::Int8Type>("click", n, flag(p.clicks)));
  SAVIOR_RETURN_IF_ERROR(columns->Add<arrow::FloatType>("p_ctr", n, of(p.p_ctr)));
  if (!log.schema().has_conversion) return absl::OkStatus();
  SAVIOR_RETURN_IF_ERROR(columns->Add<arrow::Int8Type>("conversion", n, flag(p.conversions)));
  return columns->Add<arrow::FloatType>("p_ctcvr", n, of(p.p_ctcvr));
}

absl::StatusOr<std::string> Encode(const arrow::Table& table) {
  SAVIOR_ASSIGN_OR_RETURN(const std::shared_ptr<arrow::io::BufferOutputStream> sink,
                          FromArrow(arrow::io::BufferOutputStream::Create()));
  const auto properties =
      parquet::WriterProperties::Builder().compression(parquet::Compression::ZSTD)->build();
  SAVIOR_RETURN_IF_ERROR(FromArrow(parquet::arrow::WriteTable(table, arrow::default_memory_pool(),
                                                              sink, kRowGroupRows, properties)));
  SAVIOR_ASSIGN_OR_RETURN(const std::shared_ptr<arrow::Buffer> buffer, FromArrow(sink->Finish()));
  return buffer->ToString();
}

// Copies column `name` of `table` to `out`, converted to T. kDataLoss: missing, of another type, or
// with nulls.
template <typename ArrowType, typename T>
absl::Status ReadColumn(const arrow::Table& table, const std::string& name, std::vector<T>* out) {
  const std::shared_ptr<arrow::ChunkedArray> column = table.GetColumnByName(name);
  if (column == nullptr) return absl::DataLossError(fmt::format("no column '{}'", name));
  if (column->type()->id() != ArrowType::type_id || column->null_count() != 0) {
    return absl::DataLossError(
        fmt::format("column '{}' is {} with {} nulls, should be {} with none", name,
                    column->type()->ToString(), column->null_count(), ArrowType::type_name()));
  }
  out->clear();
  out->reserve(static_cast<size_t>(column->length()));
  for (const std::shared_ptr<arrow::Array>& chunk : column->chunks()) {
    const auto& values =
        static_cast<const typename arrow::TypeTraits<ArrowType>::ArrayType&>(*chunk);
    for (int64_t i = 0; i < values.length(); ++i) out->push_back(static_cast<T>(values.Value(i)));
  }
  return absl::OkStatus();
}

// Column `name` of ids as numbers: their places in `known`, which ascends.
absl::Status ReadNumbers(const arrow::Table& table, const std::string& name,
                         std::span<const int64_t> known, std::vector<int32_t>* out) {
  std::vector<int64_t> ids;
  SAVIOR_RETURN_IF_ERROR(ReadColumn<arrow::Int64Type>(table, name, &ids));
  out->clear();
  out->reserve(ids.size());
  for (const int64_t id : ids) {
    const auto found = std::lower_bound(known.begin(), known.end(), id);
    if (found == known.end() || *found != id) {
      return absl::DataLossError(fmt::format("{} {} is not in this training log", name, id));
    }
    out->push_back(static_cast<int32_t>(found - known.begin()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<arrow::Table>> ReadTable(const std::filesystem::path& path) {
  SAVIOR_ASSIGN_OR_RETURN(std::shared_ptr<arrow::io::ReadableFile> file,
                          FromArrow(arrow::io::ReadableFile::Open(path.string())));
  SAVIOR_ASSIGN_OR_RETURN(
      const std::unique_ptr<parquet::arrow::FileReader> reader,
      FromArrow(parquet::arrow::OpenFile(std::move(file), arrow::default_memory_pool())));
  return FromArrow(reader->ReadTable());
}

absl::StatusOr<Predictions> Decode(const arrow::Table& table, const TrainingLog& log) {
  Predictions p;
  SAVIOR_RETURN_IF_ERROR(ReadNumbers(table, "user_id", log.user_ids(), &p.users));
  SAVIOR_RETURN_IF_ERROR(ReadNumbers(table, "item_id", log.item_ids(), &p.items));
  SAVIOR_RETURN_IF_ERROR(ReadColumn<arrow::Int64Type>(table, "request_id", &p.request_ids));
  SAVIOR_RETURN_IF_ERROR(ReadColumn<arrow::Int64Type>(table, "timestamp", &p.timestamps));
  SAVIOR_RETURN_IF_ERROR(ReadColumn<arrow::Int32Type>(table, "prior_count", &p.prior_counts));
  SAVIOR_RETURN_IF_ERROR(ReadColumn<arrow::FloatType>(table, "weight", &p.weights));
  SAVIOR_RETURN_IF_ERROR(ReadColumn<arrow::Int8Type>(table, "click", &p.clicks));
  SAVIOR_RETURN_IF_ERROR(ReadColumn<arrow::FloatType>(table, "p_ctr", &p.p_ctr));
  if (!log.schema().has_conversion) {
    p.conversions.assign(p.items.size(), 0.0f);
    p.p_ctcvr.assign(p.items.size(), 0.0f);
    return p;
  }
  SAVIOR_RETURN_IF_ERROR(ReadColumn<arrow::Int8Type>(table, "conversion", &p.conversions));
  SAVIOR_RETURN_IF_ERROR(ReadColumn<arrow::FloatType>(table, "p_ctcvr", &p.p_ctcvr));
  return p;
}

}  // namespace

void Predictions::Append(const Batch& batch, std::span<const float> batch_p_ctr,
                         std::span<const float> batch_p_ctcvr) {
  const auto rows_added = static_cast<size_t>(batch.rows());
  CHECK_EQ(batch_p_ctr.size(), rows_added);
  CHECK(batch_p_ctcvr.empty() || batch_p_ctcvr.size() == rows_added);
  const auto append = [](auto* to, const auto& from) {
    to->insert(to->end(), from.begin(), from.end());
  };
  for (size_t r = 0; r < batch.users.size(); ++r) {
    const auto n = static_cast<size_t>(batch.row_offsets[r + 1] - batch.row_offsets[r]);
    users.insert(users.end(), n, batch.users[r]);
    request_ids.insert(request_ids.end(), n, batch.request_ids[r]);
    timestamps.insert(timestamps.end(), n, batch.timestamps[r]);
  }
  append(&items, batch.items);
  append(&clicks, batch.clicks);
  append(&conversions, batch.conversions);
  append(&weights, batch.weights);
  append(&prior_counts, batch.prior_counts);
  append(&p_ctr, batch_p_ctr);
  append(&p_ctcvr, batch_p_ctcvr);
  p_ctcvr.resize(items.size(), 0.0f);
}

Predictions Predictions::From(int64_t row) const {
  CHECK(row >= 0 && row <= rows());
  const auto tail = [row](const auto& values) {
    return std::decay_t<decltype(values)>(values.begin() + row, values.end());
  };
  return {tail(users),  tail(request_ids), tail(items),   tail(timestamps),
          tail(clicks), tail(conversions), tail(weights), tail(prior_counts),
          tail(p_ctr),  tail(p_ctcvr)};
}

std::vector<std::vector<uint8_t>> BucketRows(const TrainingLog& log, const Predictions& predictions,
                                             std::span<const Bucket> buckets,
                                             const ItemFacts& facts) {
  const size_t n = predictions.items.size();
  std::vector<std::vector<uint8_t>> rows(buckets.size(), std::vector<uint8_t>(n));
  for (size_t i = 0; i < n; ++i) {
    const BucketFacts row = FactsOf(log, facts, predictions.items[i], predictions.timestamps[i],
                                    predictions.prior_counts[i]);
    for (size_t b = 0; b < buckets.size(); ++b) rows[b][i] = buckets[b].Contains(row) ? 1 : 0;
  }
  return rows;
}

absl::Status SavePredictions(const std::filesystem::path& path, const TrainingLog& log,
                             const Predictions& predictions, std::span<const Bucket> buckets,
                             const ItemFacts& facts) {
  ColumnWriter columns;
  SAVIOR_RETURN_IF_ERROR(AddRows(log, predictions, &columns));
  const std::vector<std::vector<uint8_t>> members = BucketRows(log, predictions, buckets, facts);
  for (size_t b = 0; b < buckets.size(); ++b) {
    const auto in = [&](size_t i) { return members[b][i] != 0; };
    SAVIOR_RETURN_IF_ERROR(
        columns.Add<arrow::BooleanType>("in_" + buckets[b].name(), predictions.rows(), in));
  }
  absl::StatusOr<std::string> bytes = Encode(*columns.Finish());
  if (!bytes.ok()) return Annotate(bytes.status(), "encoding " + path.string());
  return WriteFileAtomically(path, *bytes);
}

absl::StatusOr<Predictions> LoadPredictions(const std::filesystem::path& path,
                                            const TrainingLog& log) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    return absl::NotFoundError(path.string() + ": no such file");
  }
  const absl::StatusOr<std::shared_ptr<arrow::Table>> table = ReadTable(path);
  if (!table.ok()) return Annotate(table.status(), path.string());
  absl::StatusOr<Predictions> predictions = Decode(**table, log);
  if (!predictions.ok()) return Annotate(predictions.status(), path.string());
  return predictions;
}

}  // namespace savior
