#include "serving/table_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/files.h"
#include "serving/table_layout.h"

namespace savior {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

namespace fs = std::filesystem;

constexpr std::array<std::pair<const char*, size_t>, 8> kTypes = {{{"F32", 4},
                                                                   {"F16", 2},
                                                                   {"I8", 1},
                                                                   {"U16", 2},
                                                                   {"I32", 4},
                                                                   {"U32", 4},
                                                                   {"I64", 8},
                                                                   {"U64", 8}}};

std::optional<ColumnType> TypeOf(const std::string& name) {
  for (size_t t = 0; t < kTypes.size(); ++t) {
    if (kTypes[t].first == name) return static_cast<ColumnType>(t);
  }
  return std::nullopt;
}

// One tensor of the header. Its bytes are [begin, end) of the data.
struct Tensor {
  ColumnType type = ColumnType::kF32;
  uint64_t rows = 0;
  uint32_t width = 0;  // 0: the tensor has one axis
  uint64_t begin = 0, end = 0;
};

// Throws nlohmann's exceptions on anything unexpected; ParseHeader catches them.
absl::StatusOr<Tensor> ParseTensor(const std::string& name, const nlohmann::json& json,
                                   uint64_t data_bytes) {
  const auto bad = [&name](const char* what) {
    return absl::DataLossError(fmt::format("tensor \"{}\": {}", name, what));
  };
  Tensor tensor;
  const std::optional<ColumnType> type = TypeOf(json.at("dtype").get<std::string>());
  if (!type) return bad("unknown dtype");
  tensor.type = *type;
  const auto shape = json.at("shape").get<std::vector<uint64_t>>();
  if (shape.empty() || shape.size() > 2) return bad("must have one or two axes");
  tensor.rows = shape[0];
  if (shape.size() == 2) {
    if (shape[1] == 0 || shape[1] > kMaxWidth) return bad("width out of bounds");
    tensor.width = static_cast<uint32_t>(shape[1]);
  }
  tensor.begin = json.at("data_offsets").at(0).get<uint64_t>();
  tensor.end = json.at("data_offsets").at(1).get<uint64_t>();
  const uint64_t row_bytes = std::max<uint32_t>(tensor.width, 1) * WidthOf(tensor.type);
  if (tensor.end > data_bytes || tensor.begin > tensor.end) return bad("data is cut off");
  if (tensor.rows > data_bytes / row_bytes ||
      tensor.end - tensor.begin != tensor.rows * row_bytes) {
    return bad("shape and data differ");
  }
  if (tensor.begin % WidthOf(tensor.type) != 0) return bad("data is not aligned");
  return tensor;
}

bool Ascends(std::span<const uint64_t> keys) {
  return std::ranges::adjacent_find(keys, std::greater_equal<>()) == keys.end();
}

}  // namespace

const char* NameOf(ColumnType type) { return kTypes[static_cast<size_t>(type)].first; }
size_t WidthOf(ColumnType type) { return kTypes[static_cast<size_t>(type)].second; }

absl::StatusOr<std::shared_ptr<const TableFile>> TableFile::Open(const fs::path& path) {
  std::shared_ptr<TableFile> file(new TableFile(path));
  SAVIOR_RETURN_IF_ERROR(file->Map());
  SAVIOR_RETURN_IF_ERROR(Annotate(file->ParseHeader(), "table file " + path.string()));
  return file;
}

TableFile::~TableFile() {
  if (map_ != nullptr) ::munmap(const_cast<std::byte*>(map_), map_bytes_);
}

absl::Status TableFile::Map() {
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return SystemError(errno, "opening " + path_.string());
  struct stat info = {};
  absl::Status status;
  if (::fstat(fd, &info) != 0) status = SystemError(errno, "looking at " + path_.string());
  if (status.ok() && info.st_size > 0) {
    map_bytes_ = static_cast<size_t>(info.st_size);
    void* const map = ::mmap(nullptr, map_bytes_, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
      status = SystemError(errno, "mapping " + path_.string());
    } else {
      map_ = static_cast<const std::byte*>(map);
    }
  }
  ::close(fd);
  return status;
}

absl::Status TableFile::ParseHeader() {
  uint64_t header_bytes = 0;
  if (map_bytes_ < kHeaderRoom) return absl::DataLossError("shorter than its header");
  std::memcpy(&header_bytes, map_, sizeof(header_bytes));
  // Ours have this one size, so that data is aligned to pages.
  if (header_bytes + sizeof(header_bytes) != kHeaderRoom) {
    return absl::DataLossError("not written by savior: its header has another size");
  }
  const std::byte* const data = map_ + kHeaderRoom;
  const auto* const text = reinterpret_cast<const char*>(map_) + sizeof(header_bytes);
  const uint64_t data_bytes = map_bytes_ - kHeaderRoom;
  try {
    const auto header = nlohmann::ordered_json::parse(text, text + header_bytes);
    const auto& metadata = header.at("__metadata__");
    if (metadata.at("format") != kTableFormat) return absl::DataLossError("another format");
    delta_ = metadata.at("delta") == "1";
    std::map<std::string, Tensor> tensors;
    uint64_t total = 0;
    for (const auto& [name, json] : header.items()) {
      if (name == "__metadata__") continue;
      SAVIOR_ASSIGN_OR_RETURN(const Tensor tensor, ParseTensor(name, json, data_bytes));
      total += tensor.end - tensor.begin;
      if (name != "pad" && IsReserved(name) &&
          (tensor.type != ColumnType::kU64 || tensor.width != 0)) {
        return absl::DataLossError(fmt::format("tensor \"{}\": not a list of keys", name));
      }
      tensors[name] = tensor;
    }
    if (total != data_bytes) return absl::DataLossError("there are bytes of no tensor");
    const auto list = [&](const char* name) {
      const auto it = tensors.find(name);
      if (it == tensors.end()) return std::span<const uint64_t>();
      return std::span(reinterpret_cast<const uint64_t*>(data + it->second.begin), it->second.rows);
    };
    keys_ = list("key");
    index_ = list("index");
    gone_ = list("gone");
    if (!tensors.contains("key") || index_.size() != (keys_.size() + kIndexed - 1) / kIndexed) {
      return absl::DataLossError("key and index do not fit");
    }
    // The columns' order is their metadata's; in the file they lie otherwise.
    for (const std::string& name : SplitNames(metadata.at("columns").get<std::string>())) {
      if (IsReserved(name)) return absl::DataLossError("a column with a reserved name");
      const auto found = tensors.find(name);
      if (found == tensors.end()) {
        return absl::DataLossError(fmt::format("column \"{}\": no such tensor", name));
      }
      const Tensor& t = found->second;
      if (t.rows != keys_.size() || t.width == 0) {
        return absl::DataLossError(fmt::format("column \"{}\": rows and keys differ", name));
      }
      columns_.push_back({name, t.type, t.width});
      data_.push_back(data + t.begin);
      record_bytes_ += columns_.back().bytes();
    }
  } catch (const nlohmann::json::exception& e) {
    return absl::DataLossError(fmt::format("header: {}", e.what()));
  }
  return absl::OkStatus();
}

void TableFile::CopyRecord(uint64_t row, std::byte* record) const {
  for (size_t c = 0; c < columns_.size(); ++c) {
    const std::span<const std::byte> value = Value(c, row);
    record = std::copy(value.begin(), value.end(), record);
  }
}

std::optional<uint64_t> TableFile::Find(uint64_t key) const {
  // The last indexed key that is not greater begins the key's group.
  const auto group = std::ranges::upper_bound(index_, key);
  if (group == index_.begin()) return std::nullopt;
  const auto begin = static_cast<size_t>(group - index_.begin() - 1) * kIndexed;
  const std::span<const uint64_t> keys =
      keys_.subspan(begin, std::min(kIndexed, keys_.size() - begin));
  const auto found = std::ranges::lower_bound(keys, key);
  if (found == keys.end() || *found != key) return std::nullopt;
  return begin + static_cast<size_t>(found - keys.begin());
}

bool TableFile::IsGone(uint64_t key) const { return std::ranges::binary_search(gone_, key); }

absl::Status TableFile::CheckOrder() const {
  const auto bad = [this](const char* what) {
    return absl::DataLossError(fmt::format("table file {}: {}", path_.string(), what));
  };
  if (!Ascends(keys_)) return bad("keys do not ascend");
  if (!Ascends(gone_)) return bad("gone keys do not ascend");
  for (size_t i = 0; i < index_.size(); ++i) {
    if (index_[i] != keys_[i * kIndexed]) return bad("the index is not of the keys");
  }
  return absl::OkStatus();
}

absl::StatusOr<TableChain> TableChain::Of(std::vector<std::shared_ptr<const TableFile>> files) {
  for (size_t f = 0; f < files.size(); ++f) {
    const auto wrong = [&](const char* what) {
      return absl::FailedPreconditionError(
          fmt::format("table file {}: {}", files[f]->path().string(), what));
    };
    if (files[f]->delta() != (f > 0)) return wrong(f > 0 ? "is no delta" : "is a delta, no base");
    if (files[f]->columns() != files[0]->columns()) return wrong("has other columns than its base");
  }
  TableChain chain;
  chain.files_ = std::move(files);
  return chain;
}

std::optional<TableChain::Place> TableChain::Find(uint64_t key) const {
  for (size_t f = files_.size(); f-- > 0;) {
    if (const std::optional<uint64_t> row = files_[f]->Find(key)) {
      return Place{files_[f].get(), *row};
    }
    if (files_[f]->IsGone(key)) return std::nullopt;
  }
  return std::nullopt;
}

TableChain::Cursor::Cursor(const TableChain* chain)
    : chain_(chain), next_(chain->files_.size()), next_gone_(chain->files_.size()) {
  Next();
}

void TableChain::Cursor::Next() {
  const auto& files = chain_->files_;
  while (true) {
    at_.reset();
    // Of the least key the newest file decides.
    for (size_t f = files.size(); f-- > 0;) {
      if (next_[f] == files[f]->rows()) continue;
      const Place place{files[f].get(), next_[f]};
      if (!at_ || place.key() < at_->key()) at_ = place;
    }
    if (!at_) return;
    const uint64_t key = at_->key();
    bool gone = false;
    bool newer = true;  // than at_
    for (size_t f = files.size(); f-- > 0;) {
      if (files[f].get() == at_->file) newer = false;
      const std::span<const uint64_t> lost = files[f]->gone();
      while (next_gone_[f] < lost.size() && lost[next_gone_[f]] < key) ++next_gone_[f];
      if (newer && next_gone_[f] < lost.size() && lost[next_gone_[f]] == key) gone = true;
      if (next_[f] < files[f]->rows() && files[f]->keys()[next_[f]] == key) ++next_[f];
    }
    if (!gone) return;
  }
}

}  // namespace savior
