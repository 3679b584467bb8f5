// Commits (checkpoints): what one is, how it is written, found and checked.
//
//   <run>/commits/commit-<step, 12 digits>/
//     manifest.json          names every other file with size and XXH3-128; its last field is its
//                            own digest
//     resolved.toml          the configuration
//     dense.safetensors      dense weights and Adam moments
//     encoder.safetensors, codebook.safetensors    where the arm has them
//     codebook-previous.safetensors                while the former codebook may come back
//     encoder-previous.safetensors                 the same, if the encoder was refreshed with it
//     log.proof              what the training log must still be when it has grown
//                            (worker/data/log_proof.h)
//     shard-<k>/             a RocksDB checkpoint of all tables
//
// Files of different commits may be one file under several names (hard links): what a commit has in
// common with the one before takes no space and is not written again. A file goes with its last
// name, so deleting a commit takes nothing from another. The price: a file that rots on disk rots
// in all commits that share it; digests find it in each.
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

#include "common/digest_cache.h"
#include "common/sealed_folder.h"
#include "common/status.h"
#include "common/store.h"
#include "ps/checkpoint_place.h"

namespace savior {

inline constexpr const char* kResolvedFile = "resolved.toml";
inline constexpr const char* kDenseFile = "dense.safetensors";
inline constexpr const char* kEncoderFile = "encoder.safetensors";
inline constexpr const char* kPreviousEncoderFile = "encoder-previous.safetensors";
inline constexpr const char* kCodebookFile = "codebook.safetensors";
inline constexpr const char* kPreviousCodebookFile = "codebook-previous.safetensors";
inline constexpr const char* kLogProofFile = "log.proof";

// Which codebook version steps and scores use (worker/tables.h: where its codes and alignment rows
// lie). A commit on probation holds the version before, too, complete: which one is in use is all
// that tells it from the same commit under the former codebook (RolledBack). Commits from before
// codebooks had versions read as this is by default.
struct CodebookState {
  uint32_t version = 0;    // in use
  int64_t since_step = 0;  // the first step with it
  uint32_t previous = 0;   // in use before; version + 1: this commit was rolled back from that
  bool probation = false;  // `previous` is kept: its codes, its rows and its file
  // A person went back to this version: no drift replaces it, only a person.
  bool by_hand_only = false;
  // Of the encoder in use, and of that in use before. Refreshed with the codebook or not: where the
  // two differ, the former encoder's file is kept as long as the former codebook's.
  uint32_t encoder = 0;
  uint32_t previous_encoder = 0;
  // With model.prefix_ngrams: builds of a codebook that were begun so far, those that were given up
  // included; which of them made the version in use, and the one before (0: the codes that the run
  // began with). Keys of prefixes have it (worker/tables.h).
  uint32_t builds = 0;
  uint32_t build = 0;
  uint32_t previous_build = 0;
  bool operator==(const CodebookState&) const = default;
};

nlohmann::ordered_json ToJson(const CodebookState& state);
// The reverse; `step`: the commit's. Throws nlohmann's exceptions where a field is missing;
// kDataLoss names one that is no such value.
[[nodiscard]] absl::StatusOr<CodebookState> CodebookStateFromJson(
    const nlohmann::ordered_json& json, int64_t step);

// Whether the former encoder may come back, and is another one than that in use.
inline bool KeepsFormerEncoder(const CodebookState& state) {
  return state.probation && state.previous_encoder != state.encoder;
}

// The same, with the former version in use; it is on probation.
CodebookState RolledBack(const CodebookState& state);

// The name of the file with the codebook in use: after a rollback, and until the next commit, it is
// still kPreviousCodebookFile.
const char* CodebookFileOf(const CodebookState& state);
// The same of the encoder.
const char* EncoderFileOf(const CodebookState& state);

struct CommitManifest {
  int64_t step = 0;             // steps done: the next one to do
  int64_t samples = 0;          // impressions trained on so far
  std::string log_fingerprint;  // of the training log; another one must have grown from it
  // Ends of the training period, unix seconds, ascending: data.train_until of every start since
  // which it has grown, and now. What a batch is follows from them. Commits from before logs could
  // grow have none: theirs is data.train_until.
  std::vector<int64_t> trained_until;
  uint32_t shards = 0;
  std::vector<TableSpec> tables;
  CodebookState codebook;
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

// Where shards write their parts of the commit at `step`, and the newest commit that is there,
// whose files they may link: folders of commits, not of shards.
CheckpointPlace PlaceOfCommit(const std::filesystem::path& commits, int64_t step);

// A commit is written in two steps. First its folder is made, and its name returned; unfinished
// ones, of any step, are deleted. Fast.
[[nodiscard]] absl::StatusOr<std::filesystem::path> BeginCommit(
    const std::filesystem::path& commits, int64_t step);
// Then, with all files in it, their list, sizes and digests are taken, and it gets its name. Atomic
// and durable: when it returns OK the commit survives a power failure. One of the same step is
// replaced.
[[nodiscard]] absl::StatusOr<Commit> PublishCommit(const std::filesystem::path& commits,
                                                   CommitManifest manifest,
                                                   DigestCache* digests = nullptr);

// Both in one. `fill` puts the files into the folder given to it. One that fails is deleted at
// once, so that it holds no space (kResourceExhausted: the disk is full; commits that were there
// stay).
[[nodiscard]] absl::StatusOr<Commit> WriteCommit(
    const std::filesystem::path& commits, CommitManifest manifest,
    const std::function<absl::Status(const std::filesystem::path&)>& fill);

// The commit of `step` with another manifest: `change` is given the one that is there, and may
// change all but `step` and `files`, which stay. One rename makes it so: whatever happens, the one
// commit or the other is there, with the same files, and when this returns OK it is the new one,
// durably. Who has opened the former goes on with it. Errors: OpenCommit's, but for digests;
// kResourceExhausted: the disk is full.
[[nodiscard]] absl::StatusOr<Commit> RepublishCommit(
    const std::filesystem::path& commits, int64_t step,
    const std::function<void(CommitManifest*)>& change);

// Reads and checks `folder`: the manifest's own digest, every file's size and, with `digests`, its
// bytes. kDataLoss names file, expected and found; kNotFound: no commit there.
[[nodiscard]] absl::StatusOr<Commit> OpenCommit(const std::filesystem::path& folder, bool digests);

// The newest commit whose every digest holds. Damaged ones are named in the log and passed over.
// kNotFound: there is none; kDataLoss: there are some, none of them whole.
[[nodiscard]] absl::StatusOr<Commit> NewestCommit(const std::filesystem::path& commits);

// Commit folders by ascending step, whole or not.
std::vector<std::filesystem::path> ListCommits(const std::filesystem::path& commits);

// Deletes all but the newest `keep` commits and those `pinned`: folders of commits that somebody
// reads or may go back to. Of their paths the last part counts.
[[nodiscard]] absl::Status KeepNewest(const std::filesystem::path& commits, int64_t keep,
                                      const std::vector<std::filesystem::path>& pinned = {});

}  // namespace savior
