// Failpoints: instants of a commit, a restore and a bundle that have names, so that a test can end
// the process there, or make the step fail:
//
//   SAVIOR_FAILPOINTS="commit.after_freeze=exit,file.before_rename=error@3"
//
// exit ends the process at once, as SIGKILL does (exit code kFailpointExit); error makes the step
// fail with kFailedPrecondition, which names the point. "@n": at the n-th time that the process
// comes there, and at no other; without it at the first. All names: `savior --list-failpoints`.
//
// Compiled in by the CMake option SAVIOR_FAILPOINTS, which builds with tests have on; otherwise a
// point is no code at all, and a process that is told of failpoints refuses to start. All functions
// are thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include "common/status.h"

namespace savior {

struct FailpointInfo {
  std::string_view name;
  std::string_view what;  // where the process is then
};

// All that there are, each at one place in the code: a name that is not here does not compile, and
// tests/faults compares the other way round.
inline constexpr auto kFailpoints = std::to_array<FailpointInfo>({
    {"file.before_write", "a small file is replaced: nothing of it is on disk"},
    {"file.before_sync", "its temporary file is written and not synced"},
    {"file.before_rename", "its temporary file is synced and not renamed"},
    {"file.after_rename", "it has its name, and the folder is not synced"},
    {"file.after_folder_sync", "its folder is synced"},
    {"folder.before_sync", "a folder is published: none of its files is synced"},
    {"folder.before_rename", "all in it is synced, and it is not renamed"},
    {"folder.after_rename", "it has its name, and its parent is not synced"},
    {"folder.after_folder_sync", "its parent is synced"},
    {"commit.before_begin", "a commit begins: unfinished ones are still there"},
    {"commit.after_begin", "its folder is made, and nothing is frozen"},
    {"commit.before_freeze", "shards are about to be asked to freeze"},
    {"commit.after_freeze", "all shards have frozen"},
    {"commit.before_own_files", "shards write; none of the lead's files is there"},
    {"commit.after_dense", "the dense weights are written"},
    {"commit.before_link", "a constant file is about to be linked from the commit before"},
    {"commit.after_own_files", "all of the lead's files are written"},
    {"commit.before_publish", "all shards have written their checkpoints"},
    {"commit.before_digests", "shards' files are seen; no digest is taken"},
    {"commit.before_manifest", "all digests are taken; there is no manifest"},
    {"commit.before_replace", "the manifest is there; a commit of the same step still is, too"},
    {"commit.after_publish", "the commit is published, and nobody told"},
    {"prune.before_rename", "an old commit is about to go"},
    {"prune.before_removal", "it has lost its name, and is still there"},
    {"prune.after_removal", "it is gone"},
    {"refresh.building", "a codebook refresh begins: nothing of it is built"},
    {"refresh.built", "the new codebook is built at all workers, and not in the tables"},
    {"refresh.publishing", "some contents have codes of the new version, others not"},
    {"refresh.published", "all contents of all workers have them"},
    {"refresh.prefixes_made", "this worker's rows of prefixes are written"},
    {"refresh.remapped", "the new version's alignment rows are written; no gate was tried"},
    {"refresh.before_switch", "workers stand still for the switch"},
    {"refresh.carried", "alignment rows are carried over; all shards have the old version"},
    {"refresh.shards_switched", "all shards have the new version, and no commit has"},
    {"refresh.before_rollback_removal", "a rollback is about to delete a later commit"},
    {"refresh.before_rollback", "they are gone; the switch's commit still has the new version"},
    {"shard.before_freeze", "a shard is asked to freeze"},
    {"shard.after_freeze", "it has frozen"},
    {"shard.before_slice", "a slice of the cut is about to be written"},
    {"shard.after_slice", "a slice of the cut is written"},
    {"sorted.before_ingest", "a slice's rows are in a file that the database does not have yet"},
    {"checkpoint.before_notes", "all slices are written, notes are not"},
    {"checkpoint.before_flush", "notes are written; the database is not flushed"},
    {"checkpoint.before_links", "the database is flushed; RocksDB has made no checkpoint"},
    {"checkpoint.after_links", "RocksDB's checkpoint is there"},
    {"copy.before_files", "the checkpoint is beside the database, to be copied elsewhere"},
    {"copy.before_link", "a table file is about to be linked from the commit before"},
    {"copy.before_sync", "a file is copied and not synced"},
    {"copy.before_folder_sync", "all files are copied; their folder is not synced"},
    {"copy.before_removal", "the copy is whole; the checkpoint beside the database is still there"},
    {"restore.before_clone", "a shard of a commit is about to be cloned"},
    {"restore.before_open", "it is cloned and not opened"},
    {"restore.before_rename", "it is checked, and has not got its live name"},
    {"restore.after_rename", "it has its live name"},
    {"restore.before_routing", "rows go to another number of shards: none is routed"},
    {"restore.before_notes", "all rows are routed; the new shards have no notes"},
    {"restore.before_flush", "their notes are written; nothing is flushed"},
    {"bundle.before_files", "a bundle's folder is made and empty"},
    {"bundle.before_manifest", "all of its files are written"},
    {"bundle.before_ready", "its manifest is written; READY is not"},
    {"bundle.before_publish", "it is whole, and has not got its name"},
    {"bundle.before_link", "it is published; nothing points to it"},
    {"bundle.before_switch", "the link that will point to it is made beside the current one"},
    {"bundle.after_switch", "it is the current one; the folder is not synced"},
    {"bundle.before_delete", "an old bundle is about to go"},
    {"bundle.before_removal", "it has lost its name, and is still there"},
});

// kFailpoints.size(): there is no such point.
constexpr size_t FailpointNumber(std::string_view name) {
  size_t i = 0;
  while (i < kFailpoints.size() && kFailpoints[i].name != name) ++i;
  return i;
}

// What ends a process by `exit`.
inline constexpr int kFailpointExit = 86;
inline constexpr const char* kFailpointVariable = "SAVIOR_FAILPOINTS";

// Whether this build has failpoints.
bool FailpointsCompiledIn();
// What the environment says, in place of which ArmFailpoints' text was put. kInvalidArgument names
// what is wrong with it; kFailedPrecondition: it names points, and this build has none.
[[nodiscard]] absl::Status CheckFailpoints();
// Arms what `text` says, and nothing else; counts of hits begin anew. Errors: CheckFailpoints'.
[[nodiscard]] absl::Status ArmFailpoints(const std::string& text);
// Use SAVIOR_FAILPOINT.
[[nodiscard]] absl::Status HitFailpoint(size_t number);

}  // namespace savior

// A point: returns from the enclosing function, which returns absl::Status or StatusOr, if it is
// told to fail.
#ifndef SAVIOR_NO_FAILPOINTS
#define SAVIOR_FAILPOINT(name)                                                                   \
  do {                                                                                           \
    constexpr size_t savior_failpoint = ::savior::FailpointNumber(name);                         \
    static_assert(savior_failpoint < ::savior::kFailpoints.size(), "not in common/failpoint.h"); \
    SAVIOR_RETURN_IF_ERROR(::savior::HitFailpoint(savior_failpoint));                            \
  } while (false)
#else
#define SAVIOR_FAILPOINT(name) \
  do {                         \
  } while (false)
#endif
