#include "launcher/membership.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace savior {

Membership::Membership(std::vector<std::string> names, const std::vector<uint32_t>& workers,
                       std::chrono::milliseconds lease, Deadline now)
    : names_(std::move(names)), lease_(lease), members_(names_.size(), Member{.heard = now}) {
  for (const uint32_t rank : workers) members_[rank].works = true;
}

void Membership::Alive(uint32_t rank, Deadline now) { members_[rank].heard = now; }

void Membership::AskToStop() {
  if (verdict_.state == RunState::kRunning) verdict_.state = RunState::kStopping;
}

void Membership::Finished(uint32_t rank) {
  members_[rank].works = false;
  if (verdict_.state == RunState::kFailed) return;
  if (std::ranges::none_of(members_, &Member::works)) verdict_.state = RunState::kFinished;
}

void Membership::Failed(uint32_t rank, const std::string& text, int exit_code) {
  if (verdict_.state == RunState::kFinished || verdict_.state == RunState::kFailed) return;
  const bool named = std::ranges::any_of(
      names_, [&text](const std::string& name) { return text.starts_with(name + ": "); });
  verdict_ = {RunState::kFailed, named ? text : fmt::format("{}: {}", names_[rank], text),
              exit_code};
}

void Membership::Left(uint32_t rank) { members_[rank].left = true; }

const Verdict& Membership::Check(Deadline now) {
  for (uint32_t rank = 0; rank < members_.size(); ++rank) {
    const Member& member = members_[rank];
    if (member.left || now - member.heard <= lease_) continue;
    Failed(rank,
           fmt::format("not heard from for {:.1f} s (cluster.lease_s)",
                       std::chrono::duration<double>(now - member.heard).count()),
           1);
  }
  return verdict_;
}

bool Membership::over() const { return std::ranges::all_of(members_, &Member::left); }

}  // namespace savior
