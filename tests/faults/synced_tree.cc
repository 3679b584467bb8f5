#include "tests/faults/synced_tree.h"

#include <sys/stat.h>

#include <fstream>
#include <optional>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

namespace savior {
namespace {

namespace fs = std::filesystem;

std::optional<struct stat> StatOf(const fs::path& path) {
  struct stat s = {};
  if (::lstat(path.c_str(), &s) != 0) return std::nullopt;
  return s;
}

std::map<std::string, ino_t> NamesIn(const fs::path& folder) {
  std::map<std::string, ino_t> names;
  std::error_code error;
  for (auto it = fs::directory_iterator(folder, error); !error && it != fs::end(it);
       it.increment(error)) {
    if (const auto s = StatOf(it->path())) names[it->path().filename()] = s->st_ino;
  }
  return names;
}

bool IsBelow(const fs::path& path, const fs::path& root) {
  const std::string inside = root.string() + "/";
  return path == root || path.string().starts_with(inside);
}

}  // namespace

SyncedTree::SyncedTree(fs::path root, fs::path kept)
    : root_(std::move(root)), kept_(std::move(kept)) {
  Synced(LookAt(root_));
  for (const auto& entry : fs::recursive_directory_iterator(root_)) Synced(LookAt(entry.path()));
}

SyncedTree::Look SyncedTree::LookAt(const fs::path& path) const {
  const fs::path whole = fs::absolute(path).lexically_normal();
  const auto s = IsBelow(whole, root_) ? StatOf(whole) : std::nullopt;
  if (!s) return {};
  Look look{.inode = s->st_ino, .folder = S_ISDIR(s->st_mode)};
  if (look.folder) {
    look.names = NamesIn(whole);
    return look;
  }
  look.bytes = static_cast<uint64_t>(s->st_size);
  // Its bytes outlive its names from here on.
  std::error_code exists;
  fs::create_hard_link(whole, kept_ / std::to_string(s->st_ino), exists);
  return look;
}

void SyncedTree::Synced(const Look& look) {
  if (look.inode == 0) return;
  const std::lock_guard lock(mutex_);
  if (!look.folder) {
    files_[look.inode] = look.bytes;
    return;
  }
  folders_[look.inode] = look.names;
}

struct SyncedTree::Cut {
  const SyncedTree& tree;
  Random* const coin;
  std::map<ino_t, fs::path> now = {};  // where inodes are

  void Find() {
    std::error_code error;
    for (auto it = fs::recursive_directory_iterator(tree.root_, error); !error && it != fs::end(it);
         it.increment(error)) {
      const auto s = StatOf(it->path());
      if (s) now[s->st_ino] = it->path();
    }
    now[StatOf(tree.root_)->st_ino] = tree.root_;
  }
  bool Lucky() const { return coin != nullptr && coin->Below(2) == 0; }

  void Make(ino_t inode, const fs::path& to) const {
    const auto at = now.find(inode);
    const auto s = at == now.end() ? std::nullopt : StatOf(at->second);
    if (s && S_ISLNK(s->st_mode)) {
      fs::copy_symlink(at->second, to);
    } else if (tree.folders_.contains(inode) || (s && S_ISDIR(s->st_mode))) {
      MakeFolder(inode, to);
    } else {
      MakeFile(inode, to);
    }
  }

  void MakeFolder(ino_t inode, const fs::path& to) const {
    fs::create_directory(to);
    std::map<std::string, ino_t> names;
    if (const auto synced = tree.folders_.find(inode); synced != tree.folders_.end()) {
      names = synced->second;
    }
    const auto at = now.find(inode);
    if (at != now.end() && Lucky()) names = NamesIn(at->second);
    for (const auto& [name, child] : names) Make(child, to / name);
  }

  void MakeFile(ino_t inode, const fs::path& to) const {
    const auto synced = tree.files_.find(inode);
    uint64_t bytes = synced == tree.files_.end() ? 0 : synced->second;
    const fs::path kept = tree.kept_ / std::to_string(inode);
    const auto at = now.find(inode);
    const fs::path from = fs::exists(kept) || at == now.end() ? kept : at->second;
    std::error_code error;
    const uint64_t there = fs::file_size(from, error);
    if (!error && there > bytes && Lucky()) bytes += coin->Below(there - bytes + 1);
    std::ofstream file(to, std::ios::binary);
    if (bytes == 0) return;
    std::vector<char> content(bytes);
    std::ifstream(from, std::ios::binary).read(content.data(), static_cast<std::streamsize>(bytes));
    file.write(content.data(), static_cast<std::streamsize>(bytes));
  }
};

void SyncedTree::PowerCut(const fs::path& to, Random* coin) const {
  const std::lock_guard lock(mutex_);
  Cut cut{.tree = *this, .coin = coin};
  cut.Find();
  cut.MakeFolder(StatOf(root_)->st_ino, to);
}

}  // namespace savior
