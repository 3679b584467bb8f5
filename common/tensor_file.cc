#include "common/tensor_file.h"

#include <absl/strings/str_cat.h>

#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>
#include <utility>

#include "common/files.h"

namespace savior {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

// The format's own name for its metadata entry; no tensor may bear it.
constexpr char kMetadata[] = "__metadata__";
constexpr size_t kLengthBytes = 8;
// The reference implementation's bound on the header.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

// The number of elements, or nothing if a size is negative or the bytes do not fit 63 bits.
std::optional<uint64_t> ElementsOf(const std::vector<int64_t>& shape) {
  constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / sizeof(float);
  uint64_t elements = 1;
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0) return std::nullopt;
    if (size == 0) {
      empty = true;
      continue;
    }
    if (elements > kMax / static_cast<uint64_t>(size)) return std::nullopt;
    elements *= static_cast<uint64_t>(size);
  }
  return empty ? 0 : elements;
}

// One tensor's header entry, checked; its bytes are [begin, begin + bytes) of the data.
struct Entry {
  std::vector<int64_t> shape;
  uint64_t begin = 0;
  uint64_t bytes = 0;
};

bool AreCounts(const nlohmann::json& list) {
  if (!list.is_array()) return false;
  for (const auto& item : list) {
    if (!item.is_number_unsigned() ||
        item.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return false;
    }
  }
  return true;
}

// `expected_begin`: where the tensor before it ended. The format allows no holes.
absl::StatusOr<Entry> ParseEntry(const std::string& name, const nlohmann::json& json,
                                 uint64_t expected_begin, uint64_t data_bytes) {
  const auto bad = [&](const std::string& why) {
    return absl::DataLossError(absl::StrCat("tensor '", name, "': ", why));
  };
  if (!json.is_object() || json.size() != 3 || !json.contains("dtype") || !json.contains("shape") ||
      !json.contains("data_offsets")) {
    return bad("needs dtype, shape and data_offsets");
  }
  if (json["dtype"] != "F32") return bad("dtype is not F32");
  if (!AreCounts(json["shape"])) return bad("shape is not a list of sizes");
  const nlohmann::json& offsets = json["data_offsets"];
  if (!AreCounts(offsets) || offsets.size() != 2) return bad("data_offsets is not two numbers");

  Entry entry{.shape = json["shape"].get<std::vector<int64_t>>()};
  const std::optional<uint64_t> elements = ElementsOf(entry.shape);
  if (!elements.has_value()) return bad("shape overflows");
  entry.bytes = *elements * sizeof(float);
  entry.begin = offsets[0].get<uint64_t>();
  const auto end = offsets[1].get<uint64_t>();
  if (entry.begin != expected_begin) return bad("data does not follow the tensor before");
  if (end < entry.begin || end - entry.begin != entry.bytes) return bad("shape and data differ");
  if (end > data_bytes) return bad("data is cut off");
  return entry;
}

absl::StatusOr<std::map<std::string, std::string>> ParseMetadata(const nlohmann::json& json) {
  std::map<std::string, std::string> metadata;
  if (!json.is_object()) return absl::DataLossError("metadata is not a map");
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) return absl::DataLossError("metadata is not of strings");
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

}  // namespace

absl::StatusOr<TensorFile> DecodeTensors(const std::string& bytes) {
  if (bytes.size() < kLengthBytes) return absl::DataLossError("shorter than its header's length");
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), kLengthBytes);
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - kLengthBytes) {
    return absl::DataLossError("header is cut off");
  }
  const char* const header_begin = bytes.data() + kLengthBytes;
  const char* const data = header_begin + header_bytes;
  const uint64_t data_bytes = bytes.size() - kLengthBytes - header_bytes;

  const nlohmann::json header = nlohmann::json::parse(header_begin, data, nullptr, false);
  if (!header.is_object()) return absl::DataLossError("header is not a JSON object");

  // By offset (begin, end, then name), since the format fixes no order of names.
  std::map<std::tuple<uint64_t, uint64_t, std::string>, const nlohmann::json*> by_offset;
  TensorFile file;
  for (const auto& [name, json] : header.items()) {
    if (name == kMetadata) {
      SAVIOR_ASSIGN_OR_RETURN(file.metadata, ParseMetadata(json));
      continue;
    }
    uint64_t begin = 0;
    uint64_t end = 0;
    // Malformed offsets sort first and are refused by ParseEntry.
    if (json.is_object() && json.contains("data_offsets") && AreCounts(json["data_offsets"]) &&
        json["data_offsets"].size() == 2) {
      begin = json["data_offsets"][0].get<uint64_t>();
      end = json["data_offsets"][1].get<uint64_t>();
    }
    by_offset[{begin, end, name}] = &json;
  }
  uint64_t expected_begin = 0;
  for (const auto& [position, json] : by_offset) {
    const std::string& name = std::get<2>(position);
    SAVIOR_ASSIGN_OR_RETURN(Entry entry, ParseEntry(name, *json, expected_begin, data_bytes));
    HostTensor& tensor = file.tensors[name];
    tensor.shape = std::move(entry.shape);
    tensor.data.resize(entry.bytes / sizeof(float));
    if (entry.bytes > 0) std::memcpy(tensor.data.data(), data + entry.begin, entry.bytes);
    expected_begin = entry.begin + entry.bytes;
  }
  if (expected_begin != data_bytes) return absl::DataLossError("bytes after the last tensor");
  return file;
}

absl::StatusOr<std::string> EncodeTensors(const TensorFile& file) {
  nlohmann::json header = nlohmann::json::object();  // sorted by name: same content, same bytes
  if (!file.metadata.empty()) header[kMetadata] = file.metadata;
  uint64_t offset = 0;
  for (const auto& [name, tensor] : file.tensors) {
    const std::optional<uint64_t> elements = ElementsOf(tensor.shape);
    if (name == kMetadata || !elements.has_value() || *elements != tensor.data.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor '", name, "': bad name, or shape and data differ"));
    }
    const uint64_t bytes = *elements * sizeof(float);
    header[name] = {
        {"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  // `replace`: a name that is not UTF-8 must not throw; it reads back changed, which
  // callers, whose names are ASCII, never see.
  std::string text = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data starts 8-byte aligned
  const uint64_t header_bytes = text.size();

  std::string bytes(kLengthBytes, '\0');
  bytes.reserve(kLengthBytes + header_bytes + offset);
  std::memcpy(bytes.data(), &header_bytes, kLengthBytes);
  bytes += text;
  for (const auto& [name, tensor] : file.tensors) {
    bytes.append(reinterpret_cast<const char*>(tensor.data.data()),
                 tensor.data.size() * sizeof(float));
  }
  return bytes;
}

absl::Status WriteTensorFile(const std::filesystem::path& path, const TensorFile& file) {
  SAVIOR_ASSIGN_OR_RETURN(const std::string bytes, EncodeTensors(file));
  return WriteFile(path, bytes);
}

absl::StatusOr<TensorFile> ReadTensorFile(const std::filesystem::path& path) {
  const absl::StatusOr<std::string> bytes = ReadFile(path);
  if (!bytes.ok()) return bytes.status();
  absl::StatusOr<TensorFile> file = DecodeTensors(*bytes);
  if (!file.ok()) return Annotate(file.status(), absl::StrCat("tensor file ", path.string()));
  return file;
}

}  // namespace savior
