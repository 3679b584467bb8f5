// Commits (checkpoints): what one is, how it is written, found and checked.
//
//   <run>/commits/commit-<step, 12 digits>/
//     manifest.json          names every other file with size and XXH3-128; its last field is its
//                            own digest
//     resolved.toml          the configuration
//     dense.safetensors      dense weights and Adam moments
//     encoder.safetensors, codebook.safetensors    where the arm has them
//     shard-<k>/             a RocksDB checkpoint of all tables
//
// A commit is written as commit-<step>.part and renamed when every byte is synced: a folder without
// the suffix is whole. What is random in a run is a function of (seed, step), so the step is also
// the RNG state and the data cursor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "common/sealed_folder.h"
#include "common/status.h"
#include "common/store.h"

namespace savior {

inline constexpr const char* kResolvedFile = "resolved.toml";
inline constexpr const char* kDenseFile = "dense.safetensors";
inline constexpr const char* kEncoderFile = "encoder.safetensors";
inline constexpr const char* kCodebookFile = "codebook.safetensors";

struct CommitManifest {
  int64_t step = 0;             // steps done: the next one to do
  int64_t samples = 0;          // impressions trained on so far
  std::string log_fingerprint;  // of the training log; resuming on another one is refused
  uint32_t shards = 0;
  std::vector<TableSpec> tables;
  std::vector<SealedFile> files;
};

// A commit on disk whose manifest is valid.
struct Commit {
  std::filesystem::path folder;
  CommitManifest manifest;
};

// The folder of the commit at `step`.
std::filesystem::path CommitFolder(const std::filesystem::path& commits, int64_t step);

// The same while it is written.
std::filesystem::path UnfinishedCommit(const std::filesystem::path& commits, int64_t step);

// Writes a commit. `fill` puts the files into the folder given to it; their list, sizes and digests
// are taken here. Atomic and durable: when it returns OK the commit survives a power failure.
// Unfinished ones, of any step, are deleted first; one that fails is deleted at once, so that it
// holds no space (kResourceExhausted: the disk is full; commits that were there stay).
[[nodiscard]] absl::StatusOr<Commit> WriteCommit(
    const std::filesystem::path& commits, CommitManifest manifest,
    const std::function<absl::Status(const std::filesystem::path&)>& fill);

// Reads and checks `folder`: the manifest's own digest, every file's size and, with `digests`, its
// bytes. kDataLoss names file, expected and found; kNotFound: no commit there.
[[nodiscard]] absl::StatusOr<Commit> OpenCommit(const std::filesystem::path& folder, bool digests);

// The newest commit whose every digest holds. Damaged ones are named in the log and passed over.
// kNotFound: there is none; kDataLoss: there are some, none of them whole.
[[nodiscard]] absl::StatusOr<Commit> NewestCommit(const std::filesystem::path& commits);

// Commit folders by ascending step, whole or not.
std::vector<std::filesystem::path> ListCommits(const std::filesystem::path& commits);

// Deletes all but the newest `keep` commits and `in_use` (a commit's folder that somebody reads;
// empty: none).
[[nodiscard]] absl::Status KeepNewest(const std::filesystem::path& commits, int64_t keep,
                                      const std::filesystem::path& in_use = {});

}  // namespace savior
