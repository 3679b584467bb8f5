// A network cable with a length: what node I sends arrives later. For kernels without netem.
//
//   bed_cable NODE_NETWORK BED_NETWORK PORT DELAY_US
//
// The networks are files such as /proc/4711/ns/net. Makes two TAP devices, `eth0` in the node's
// network and PORT in the bed's, and carries Ethernet frames between them: from the node DELAY_US
// microseconds after they were sent, to the node at once, as netem on the node's eth0 would. Both
// devices go when the program ends, which is by a signal. Rates are tc's business, and a cut is
// `ip link set PORT down`, beyond which frames are lost as in a broken cable.
//
// Prints "ready" when the devices are there. Devices without offloads: the node's kernel cuts what
// it sends into frames of the MTU, so counters of bytes show what a real wire would carry.
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kLongestFrame = 65'536;
// Per look: so that frames that are due do not wait for a sender that never pauses.
constexpr int kBurst = 64;

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "bed_cable: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

// A TAP device in the network of that file. Reads and writes of the result do not block.
int MakeTap(const std::string& network, const std::string& name) {
  const int space = ::open(network.c_str(), O_RDONLY | O_CLOEXEC);
  if (space < 0 || ::setns(space, CLONE_NEWNET) != 0) Die(network);
  ::close(space);
  const int tap = ::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (tap < 0) Die("/dev/net/tun");
  ifreq request{};
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  if (::ioctl(tap, TUNSETIFF, &request) != 0) Die(name);
  return tap;
}

// One direction.
class Wire {
 public:
  Wire(int from, int to, Clock::duration delay) : from_(from), to_(to), delay_(delay) {}

  int from() const { return from_; }
  bool empty() const { return under_way_.empty(); }
  Clock::time_point due() const { return under_way_.front().due; }

  void TakeIn() {
    for (int i = 0; i < kBurst; ++i) {
      const ssize_t size = ::read(from_, buffer_.data(), buffer_.size());
      if (size <= 0) return;  // none now, or the device is down
      under_way_.push_back({Clock::now() + delay_, {buffer_.begin(), buffer_.begin() + size}});
    }
  }
  // A frame that the other side does not take (down, full) is lost.
  void GiveOut() {
    for (const auto now = Clock::now(); !empty() && due() <= now; under_way_.pop_front()) {
      const std::vector<char>& bytes = under_way_.front().bytes;
      if (::write(to_, bytes.data(), bytes.size()) < 0) continue;
    }
  }

 private:
  struct Frame {
    Clock::time_point due;
    std::vector<char> bytes;
  };
  const int from_, to_;
  const Clock::duration delay_;
  std::vector<char> buffer_ = std::vector<char>(kLongestFrame);
  std::deque<Frame> under_way_;
};

void Carry(std::array<Wire, 2> wires) {
  std::array<pollfd, 2> fds = {pollfd{wires[0].from(), POLLIN, 0},
                               pollfd{wires[1].from(), POLLIN, 0}};
  while (true) {
    timespec wait{};
    bool any = false;
    auto next = Clock::time_point::max();
    for (const Wire& wire : wires) {
      if (wire.empty()) continue;
      any = true;
      next = std::min(next, wire.due());
    }
    if (any) {
      const auto left = std::max(next - Clock::now(), Clock::duration::zero());
      wait.tv_nsec = std::chrono::nanoseconds(left).count() % 1'000'000'000;
      wait.tv_sec = std::chrono::nanoseconds(left).count() / 1'000'000'000;
    }
    ::ppoll(fds.data(), fds.size(), any ? &wait : nullptr, nullptr);
    for (const pollfd& fd : fds) {
      if (fd.revents & (POLLERR | POLLHUP)) return;  // its network has gone
    }
    for (Wire& wire : wires) {
      wire.TakeIn();
      wire.GiveOut();
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() != 4) {
    std::fprintf(stderr, "usage: bed_cable NODE_NETWORK BED_NETWORK PORT DELAY_US\n");
    return 2;
  }
  const std::chrono::microseconds delay{std::atoll(words[3].c_str())};
  ::prctl(PR_SET_TIMERSLACK, 1000UL);  // ns; 50,000 otherwise
  const int node = MakeTap(words[0], "eth0");
  const int port = MakeTap(words[1], words[2]);
  std::printf("ready\n");
  std::fflush(stdout);
  Carry({Wire(node, port, delay), Wire(port, node, Clock::duration::zero())});
}
