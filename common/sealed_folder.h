// A folder whose manifest names every other file with size and digest, and the manifest its own: a
// commit, a serving bundle. A flipped byte anywhere is found, and the file named.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "common/digest_cache.h"
#include "common/status.h"

namespace savior {

inline constexpr const char* kManifestFile = "manifest.json";
// Ends the name of whatever is being written, until it is renamed to what it will be.
inline constexpr const char* kUnfinished = ".part";

// Deletes what was left unfinished in `folder`, by whomever; a missing folder is OK. First of all:
// it holds disk space, which may be what ended it.
[[nodiscard]] absl::Status RemoveUnfinished(const std::filesystem::path& folder);

struct SealedFile {
  std::string path;  // relative to the folder
  uint64_t bytes = 0;
  std::string xxh3;  // XXH3-128, 32 hex digits
};

// All files below `folder`, by path. Reads every byte of them, but of table files (.sst), which
// nobody changes in place, only of those that `digests` (or null) does not know.
[[nodiscard]] absl::StatusOr<std::vector<SealedFile>> ListFiles(const std::filesystem::path& folder,
                                                                DigestCache* digests = nullptr);

// The text of a manifest: `fields`, then `files`, then the digest of both. `fields` has neither
// "files" nor "xxh3".
std::string SealManifest(nlohmann::ordered_json fields, std::span<const SealedFile> files);

// NOLINTNEXTLINE(bugprone-exception-escape): a JSON object's move may only fail by an assertion.
struct SealedManifest {
  nlohmann::ordered_json fields;  // "files" and "xxh3" are taken out
  std::vector<SealedFile> files;
  std::string xxh3;  // the manifest's own
};
// kDataLoss: not what SealManifest wrote, byte for byte (`path` is named).
[[nodiscard]] absl::StatusOr<SealedManifest> UnsealManifest(const std::filesystem::path& path,
                                                            const std::string& text);

// Whether all `files` are below `folder` with their sizes and, with `digests`, their bytes; what
// `known` has (null: nothing) is not read again. kDataLoss names file, expected and found.
// `threads` read.
[[nodiscard]] absl::Status CheckFiles(const std::filesystem::path& folder,
                                      std::span<const SealedFile> files, bool digests,
                                      DigestCache* known = nullptr, size_t threads = 1);

}  // namespace savior
