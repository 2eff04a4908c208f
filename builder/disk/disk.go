// Package disk assembles the system disk of a master: it plans where partitions lie, joins their contents and the
// GUID partition table into one sparse image, names every region of it, digests regions and writes the image to a
// file without storing its zeros.
//
// The work has two steps because the contents need to know where they lie (GRUB's core image holds the sector of its
// own partition, a FAT boot sector the sectors before it): PlanLayout turns sizes into places, Layout.Assemble turns
// contents into an image.
//
// What it deliberately does not do: know what a partition is for, write to block devices in place, or change an
// image that exists.
package disk
