#include "worker/data/raw.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <arrow/io/file.h>
#include <arrow/memory_pool.h>
#include <arrow/record_batch.h>
#include <parquet/arrow/reader.h>
#include <parquet/file_reader.h>
#include <parquet/properties.h>

#include <algorithm>
#include <numeric>
#include <system_error>
#include <utility>

#include "worker/data/arrow_files.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

// Reads pages as they are needed: a row group may be larger than the memory.
arrow::Result<std::unique_ptr<parquet::arrow::FileReader>> OpenParquet(const fs::path& path,
                                                                       int64_t slice_rows) {
  ARROW_ASSIGN_OR_RAISE(auto file, arrow::io::ReadableFile::Open(path.string()));
  parquet::ReaderProperties properties = parquet::default_reader_properties();
  properties.enable_buffered_stream();
  properties.set_buffer_size(int64_t{1} << 18);
  parquet::ArrowReaderProperties arrow_properties;
  arrow_properties.set_use_threads(false);
  arrow_properties.set_pre_buffer(false);
  arrow_properties.set_batch_size(slice_rows);
  parquet::arrow::FileReaderBuilder builder;
  ARROW_RETURN_NOT_OK(builder.Open(std::move(file), properties));
  return builder.properties(arrow_properties)->Build();
}

// Bytes that are no Parquet are bad input here, not the loss of something that we wrote.
absl::Status FromParquet(const arrow::Status& status, const fs::path& path) {
  absl::Status ours = FromArrow(status, path);
  return absl::IsDataLoss(ours) ? absl::InvalidArgumentError(ours.message()) : ours;
}

}  // namespace

absl::StatusOr<std::vector<fs::path>> RawParts(const fs::path& raw, const std::string& name) {
  std::error_code error;
  const fs::path file = raw / (name + ".parquet");
  if (fs::is_regular_file(file, error)) return std::vector<fs::path>{file};
  const fs::path folder = raw / name;
  std::vector<fs::path> parts;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".parquet") parts.push_back(it->path());
  }
  if (parts.empty()) {
    return absl::NotFoundError(absl::StrCat(file.string(), ": not found, and no part files in ",
                                            folder.string(), " either"));
  }
  std::sort(parts.begin(), parts.end());
  return parts;
}

absl::StatusOr<RawTable> RawTable::Open(const fs::path& raw, const std::string& name) {
  SAVIOR_ASSIGN_OR_RETURN(const auto paths, RawParts(raw, name));
  RawTable table;
  for (const fs::path& path : paths) {
    auto reader = OpenParquet(path, /*slice_rows=*/1);
    if (!reader.ok()) return FromParquet(reader.status(), path);
    Part part{.path = path,
              .first_row = table.num_rows_,
              .rows = (*reader)->parquet_reader()->metadata()->num_rows(),
              .schema = nullptr};
    if (const auto status = (*reader)->GetSchema(&part.schema); !status.ok()) {
      return FromParquet(status, path);
    }
    table.num_rows_ += part.rows;
    table.parts_.push_back(std::move(part));
  }
  return table;
}

std::vector<std::string> RawTable::Names() const { return parts_.front().schema->field_names(); }

std::vector<std::string> RawTable::NamesWithPrefix(const std::string& prefix) const {
  std::vector<std::string> names;
  for (std::string& name : Names()) {
    if (absl::StartsWith(name, prefix)) names.push_back(std::move(name));
  }
  return names;
}

bool RawTable::Has(const std::string& column) const {
  return parts_.front().schema->GetFieldIndex(column) >= 0;
}

int RawTable::FixedDim(const std::string& column) const {
  int dim = 0;
  const auto field = parts_.front().schema->GetFieldByName(column);
  return field != nullptr && Fits(RawKind::kVector, *field->type(), &dim) ? dim : 0;
}

absl::Status RawTable::Check(const std::vector<RawColumn>& columns) const {
  for (const Part& part : parts_) {
    for (const RawColumn& column : columns) {
      const std::string where = absl::StrCat(part.path.string(), ": column '", column.name, "'");
      const auto fields = part.schema->GetAllFieldsByName(column.name);
      if (fields.empty()) return absl::InvalidArgumentError(where + " is missing");
      if (fields.size() > 1) return absl::InvalidArgumentError(where + " is there twice");
      if (!Fits(column.kind, *fields.front()->type())) {
        return absl::InvalidArgumentError(absl::StrCat(
            where, " is ", fields.front()->type()->ToString(), ", not ", Expected(column.kind)));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status RawTable::Scan(const std::vector<RawColumn>& columns, int64_t slice_rows,
                            const std::function<absl::Status(const RawSlice&)>& visit) const {
  RawSlice slice;
  slice.columns.resize(columns.size());
  for (const Part& part : parts_) {
    SAVIOR_RETURN_IF_ERROR(ScanPart(part, columns, slice_rows, visit, &slice));
  }
  return absl::OkStatus();
}

absl::Status RawTable::ScanPart(const Part& part, const std::vector<RawColumn>& columns,
                                int64_t slice_rows,
                                const std::function<absl::Status(const RawSlice&)>& visit,
                                RawSlice* slice) const {
  auto reader = OpenParquet(part.path, slice_rows);
  if (!reader.ok()) return FromParquet(reader.status(), part.path);
  const auto& metadata = *(*reader)->parquet_reader()->metadata();

  // Leaves of the wanted columns: a list has its leaf one level down, under the column's name.
  std::vector<int> leaves;
  for (int leaf = 0; leaf < metadata.schema()->num_columns(); ++leaf) {
    const std::string& root = metadata.schema()->GetColumnRoot(leaf)->name();
    const auto wanted = [&root](const RawColumn& column) { return column.name == root; };
    if (std::any_of(columns.begin(), columns.end(), wanted)) leaves.push_back(leaf);
  }
  std::vector<int> groups(static_cast<size_t>(metadata.num_row_groups()));
  std::iota(groups.begin(), groups.end(), 0);
  auto batches = (*reader)->GetRecordBatchReader(groups, leaves);
  if (!batches.ok()) return FromParquet(batches.status(), part.path);

  slice->first_row = part.first_row;
  const int64_t end = part.first_row + part.rows;
  while (true) {
    auto next = (*batches)->Next();
    if (!next.ok()) return FromParquet(next.status(), part.path);
    if (*next == nullptr) break;
    slice->batch = *next;
    slice->rows = slice->batch->num_rows();
    for (size_t i = 0; i < columns.size(); ++i) {
      const auto array = slice->batch->GetColumnByName(columns[i].name);
      if (array == nullptr || !Fits(columns[i].kind, *array->type())) {
        return absl::InvalidArgumentError(part.path.string() + ": changed while it was read");
      }
      if (const auto bad = ReadCells(columns[i].kind, *array, &slice->columns[i])) {
        return Refuse(slice->first_row + bad->row, columns[i].name, bad->why);
      }
    }
    SAVIOR_RETURN_IF_ERROR(visit(*slice));
    slice->first_row += slice->rows;
  }
  if (slice->first_row == end) return absl::OkStatus();
  return absl::InvalidArgumentError(part.path.string() + ": holds fewer rows than its footer says");
}

const RawTable::Part& RawTable::PartOf(int64_t row) const {
  const auto after =
      std::upper_bound(parts_.begin(), parts_.end(), row,
                       [](int64_t wanted, const Part& part) { return wanted < part.first_row; });
  return *std::prev(after);
}

std::string RawTable::Where(int64_t row) const {
  const Part& part = PartOf(row);
  return absl::StrCat(part.path.string(), ": row ", row - part.first_row);
}

absl::Status RawTable::Refuse(int64_t row, const std::string& column,
                              const std::string& why) const {
  return absl::InvalidArgumentError(absl::StrCat(Where(row), ", column '", column, "': ", why));
}

absl::Status RawTable::RefuseColumn(const std::string& column, const std::string& why) const {
  return absl::InvalidArgumentError(
      absl::StrCat(parts_.front().path.string(), ": column '", column, "' ", why));
}

}  // namespace savior
