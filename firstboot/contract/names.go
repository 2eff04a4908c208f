package contract

// NamesSocket is where the dhcp child feeds who has which name and address; see package names.
const NamesSocket = "/run/rempart/dhcp/names"
