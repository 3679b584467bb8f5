// item_vectors.parquet -> vectors-<modality>.arrow, one row per distinct content. Two passes: the
// first digests every item's vectors, the second puts each distinct one into its place in a file.
#include <absl/container/flat_hash_map.h>
#include <absl/strings/str_cat.h>
#include <arrow/array.h>
#include <fcntl.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <utility>

#include "common/progress.h"
#include "worker/data/arrow_files.h"
#include "worker/data/prepare_steps.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

struct Digest {
  uint64_t high = 0;
  uint64_t low = 0;
  bool operator==(const Digest&) const = default;
  template <typename H>
  friend H AbslHashValue(H state, const Digest& digest) {
    return H::combine(std::move(state), digest.high, digest.low);
  }
};

// A file of rows of one width, written in any order. A write that fails says so, where a map would
// kill the process on a full disk.
class RowFile {
 public:
  RowFile(fs::path path, size_t row_bytes)
      : path_(std::move(path)),
        row_bytes_(row_bytes),
        fd_(open(path_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644)) {}
  RowFile(RowFile&& other) noexcept
      : path_(other.path_), row_bytes_(other.row_bytes_), fd_(std::exchange(other.fd_, -1)) {}
  RowFile(const RowFile&) = delete;
  RowFile& operator=(const RowFile&) = delete;
  ~RowFile() {
    if (fd_ >= 0) close(fd_);
  }

  absl::Status Put(int64_t row, const void* bytes) {
    for (size_t done = 0; done < row_bytes_;) {
      const auto at = row * static_cast<int64_t>(row_bytes_) + static_cast<int64_t>(done);
      const ssize_t written =
          pwrite(fd_, static_cast<const char*>(bytes) + done, row_bytes_ - done, at);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) {
        const int error = errno;
        const std::string message = path_.string() + ": " + std::strerror(error);
        return error == ENOSPC || error == EDQUOT ? absl::ResourceExhaustedError(message)
                                                  : absl::FailedPreconditionError(message);
      }
      done += static_cast<size_t>(written);
    }
    return absl::OkStatus();
  }

  const fs::path& path() const { return path_; }

 private:
  const fs::path path_;
  const size_t row_bytes_;
  int fd_;
};

bool HasVector(const RawSlice& slice, size_t row) {
  // Column 0 is item_id. One modality is enough; the others then read as zeros.
  return std::any_of(slice.columns.begin() + 1, slice.columns.end(),
                     [row](const RawCells& cells) { return cells.vectors.present[row] != 0; });
}

std::span<const uint16_t> VectorAt(const RawCells& cells, size_t row) {
  const auto dim = static_cast<size_t>(cells.vectors.dim);
  return std::span(cells.vectors.halves).subspan(row * dim, dim);
}

Digest DigestOf(const RawSlice& slice, size_t row) {
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  for (size_t m = 1; m < slice.columns.size(); ++m) {
    const auto vector = VectorAt(slice.columns[m], row);
    // All zeros whether the modality's length is known by now or not.
    const bool present = slice.columns[m].vectors.present[row] != 0;
    XXH3_128bits_update(&state, &present, sizeof(present));
    if (present) XXH3_128bits_update(&state, vector.data(), vector.size_bytes());
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(&state);
  return {.high = hash.high64, .low = hash.low64};
}

class VectorPreparer {
 public:
  VectorPreparer(const RawTable* table, PrepareWork* work) : table_(table), work_(work) {
    columns_.push_back({"item_id", RawKind::kInt});
    for (const std::string& name : table->Names()) {
      if (name != "item_id") columns_.push_back({name, RawKind::kVector});
    }
  }

  absl::StatusOr<std::vector<int32_t>> Run() {
    SAVIOR_RETURN_IF_ERROR(CheckSchema());
    SAVIOR_RETURN_IF_ERROR(DigestAll());
    NumberContents();
    SAVIOR_RETURN_IF_ERROR(WriteVectors());
    return std::move(contents_);
  }

 private:
  absl::Status CheckSchema() const;
  absl::Status DigestAll();
  void NumberContents();
  absl::Status WriteVectors();
  absl::Status WriteModality(const Modality& modality, const fs::path& scratch) const;

  const RawTable* const table_;
  PrepareWork* const work_;
  std::vector<RawColumn> columns_;    // item_id, then the modalities
  std::vector<int> dims_;             // [modality]
  std::vector<Digest> digests_;       // [item]; zeros: no vector
  std::vector<int64_t> rows_;         // [item] raw row; -1: none
  std::vector<int32_t> contents_;     // [item] content number; -1: no vector
  std::vector<int32_t> first_items_;  // [content] its first item
};

absl::Status VectorPreparer::CheckSchema() const {
  SAVIOR_RETURN_IF_ERROR(table_->Check(columns_));
  if (columns_.size() == 1) {
    return table_->RefuseColumn("item_id", "is the only one: there is no vector column");
  }
  for (const RawColumn& column : columns_) {
    const bool plain = std::all_of(column.name.begin(), column.name.end(), [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-';
    });
    if (!plain || column.name.empty()) {
      return table_->RefuseColumn(column.name, "must be named in letters, digits, _ and -");
    }
  }
  return absl::OkStatus();
}

absl::Status VectorPreparer::DigestAll() {
  const auto items = static_cast<size_t>(work_->items.size());
  digests_.resize(items);
  rows_.assign(items, -1);
  contents_.assign(items, -1);
  for (size_t m = 1; m < columns_.size(); ++m) {
    dims_.push_back(table_->FixedDim(columns_[m].name));
  }
  Progress progress("item vectors", table_->num_rows(), "items");
  const auto visit = [&](const RawSlice& slice) -> absl::Status {
    for (size_t row = 0; row < static_cast<size_t>(slice.rows); ++row) {
      const int64_t raw_row = slice.first_row + static_cast<int64_t>(row);
      const int64_t id = slice.columns[0].ints[row];
      const int32_t item = work_->items.Find(id);
      if (item < 0) {
        return table_->Refuse(raw_row, "item_id", absl::StrCat(id, " is not in items"));
      }
      const auto index = static_cast<size_t>(item);
      if (rows_[index] >= 0) {
        return table_->Refuse(
            raw_row, "item_id",
            absl::StrCat(id, " is there already, at ", table_->Where(rows_[index])));
      }
      rows_[index] = raw_row;
      if (!HasVector(slice, row)) continue;
      digests_[index] = DigestOf(slice, row);
      contents_[index] = 0;
    }
    for (size_t m = 0; m < dims_.size(); ++m) {
      if (slice.columns[m + 1].vectors.dim != 0) dims_[m] = slice.columns[m + 1].vectors.dim;
    }
    progress.Update(slice.first_row + slice.rows);
    return absl::OkStatus();
  };
  SAVIOR_RETURN_IF_ERROR(table_->Scan(columns_, kVectorSliceRows, visit));
  progress.Finish();
  rows_ = {};
  return absl::OkStatus();
}

void VectorPreparer::NumberContents() {
  absl::flat_hash_map<Digest, int32_t> numbers;
  for (size_t item = 0; item < contents_.size(); ++item) {
    if (contents_[item] < 0) {
      ++work_->manifest.items_without_vector;
      continue;
    }
    const auto next = static_cast<int32_t>(first_items_.size());
    const auto [entry, fresh] = numbers.try_emplace(digests_[item], next);
    if (fresh) first_items_.push_back(static_cast<int32_t>(item));
    contents_[item] = entry->second;
  }
  digests_ = {};
  work_->manifest.contents = static_cast<int64_t>(first_items_.size());
}

absl::Status VectorPreparer::WriteVectors() {
  std::vector<Modality>& modalities = work_->manifest.schema.modalities;
  std::vector<RowFile> files;
  for (size_t m = 0; m < dims_.size(); ++m) {
    modalities.push_back({.name = columns_[m + 1].name, .dim = dims_[m]});
    files.emplace_back(work_->scratch / ("vectors-" + modalities[m].name),
                       static_cast<size_t>(dims_[m]) * sizeof(uint16_t));
  }
  const std::vector<uint16_t> zeros(
      static_cast<size_t>(*std::max_element(dims_.begin(), dims_.end())));
  Progress progress("distinct vectors", work_->manifest.contents, "contents");
  int64_t written = 0;
  const auto visit = [&](const RawSlice& slice) -> absl::Status {
    for (size_t row = 0; row < static_cast<size_t>(slice.rows); ++row) {
      const int32_t item = work_->items.Find(slice.columns[0].ints[row]);
      const int32_t content = item < 0 ? -1 : contents_[static_cast<size_t>(item)];
      if (content < 0 || first_items_[static_cast<size_t>(content)] != item) continue;
      for (size_t m = 0; m < files.size(); ++m) {
        const RawCells& cells = slice.columns[m + 1];
        const bool present = cells.vectors.present[row] != 0;
        SAVIOR_RETURN_IF_ERROR(
            files[m].Put(content, present ? VectorAt(cells, row).data() : zeros.data()));
      }
      ++written;
    }
    progress.Update(written);
    return absl::OkStatus();
  };
  SAVIOR_RETURN_IF_ERROR(table_->Scan(columns_, kVectorSliceRows, visit));
  progress.Finish();
  for (size_t m = 0; m < files.size(); ++m) {
    SAVIOR_RETURN_IF_ERROR(WriteModality(modalities[m], files[m].path()));
  }
  return absl::OkStatus();
}

absl::Status VectorPreparer::WriteModality(const Modality& modality,
                                           const fs::path& scratch) const {
  const int64_t contents = work_->manifest.contents;
  SAVIOR_ASSIGN_OR_RETURN(const auto bytes, MapBuffer(scratch));
  if (bytes->size() != contents * modality.dim * static_cast<int64_t>(sizeof(uint16_t))) {
    return absl::DataLossError(scratch.string() + ": item vectors changed while they were read");
  }
  const auto type =
      arrow::fixed_size_list(arrow::field("item", arrow::float16(), false), modality.dim);
  const auto flat = std::make_shared<arrow::HalfFloatArray>(contents * modality.dim, bytes);
  ColumnSet file;
  file.Add("vector", std::make_shared<arrow::FixedSizeListArray>(type, contents, flat));
  return file.Write(work_->folder / VectorsName(modality.name));
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> PrepareVectors(const RawTable& vectors, PrepareWork* work) {
  return VectorPreparer(&vectors, work).Run();
}

}  // namespace savior
